//! The response types of HTTP clients.

use http_body::Body;

use super::body::HttpCallBody;
use crate::error::BoxError;

/// A response over HTTP: [`http::Response`], or `reqwest::Response` with the feature `reqwest`. Sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an HTTP response that `HttpCallLayer` supports",
    note = "`HttpCallLayer` supports `http::Response<B>` where `B: http_body::Body<Error: Into<BoxError>> + Send + 'static`, and \
            `reqwest::Response`"
)]
pub trait HttpReply: sealed::Sealed + Sized {
    /// The body of the response.
    type Body: Body<Error: Into<BoxError>> + Send + 'static;

    /// The response whose body drives its call.
    type Carried;

    #[doc(hidden)]
    fn into_http(self) -> http::Response<Self::Body>;

    #[doc(hidden)]
    fn from_http(reply: http::Response<HttpCallBody<Self::Body>>) -> Self::Carried;
}

impl<B> HttpReply for http::Response<B>
where
    B: Body<Error: Into<BoxError>> + Send + 'static,
{
    type Body = B;
    type Carried = http::Response<HttpCallBody<B>>;

    fn into_http(self) -> Self {
        self
    }

    fn from_http(reply: http::Response<HttpCallBody<B>>) -> Self::Carried {
        reply
    }
}

#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
impl HttpReply for reqwest::Response {
    type Body = reqwest::Body;
    type Carried = Self;

    fn into_http(self) -> http::Response<reqwest::Body> {
        use reqwest::ResponseBuilderExt;

        // The conversion drops the URL, but restores it from the extensions when converting back.
        let address = http::Response::builder().url(self.url().clone()).body(()).ok();
        let mut reply = http::Response::from(self);
        if let Some(address) = address {
            let (parts, ()) = address.into_parts();
            reply.extensions_mut().extend(parts.extensions);
        }
        reply
    }

    fn from_http(reply: http::Response<HttpCallBody<reqwest::Body>>) -> Self {
        reply.map(reqwest::Body::wrap).into()
    }
}

mod sealed {
    pub trait Sealed {}
    impl<B> Sealed for http::Response<B> {}
    #[cfg(feature = "reqwest")]
    impl Sealed for reqwest::Response {}
}
