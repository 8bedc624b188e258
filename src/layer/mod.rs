//! One module per middleware. Every layer works on any [`tower::Service`](tower_service::Service), independent of
//! providers.

#[cfg(feature = "cache")]
#[cfg_attr(docsrs, doc(cfg(feature = "cache")))]
pub mod cache;
pub mod dry_run;
pub mod http;
pub mod rate_limiter;
pub mod retry;
pub mod standard;
pub mod timeout;
pub mod token_accounting;

mod builder_ext;

pub use builder_ext::ServiceBuilderExt;
