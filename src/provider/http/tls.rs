//! The certificates that a client trusts.

use reqwest::ClientBuilder;

#[cfg(any(feature = "rustls", feature = "native-tls"))]
use super::send_error::cause;
use crate::error::{ErrorKind, LlmError};

fn wrong(message: impl Into<String>) -> LlmError {
    LlmError::new(ErrorKind::Configuration, message.into()).with_code("invalid_option")
}

/// Trusts the certificates of `roots` (PEM) beside the platform's.
#[cfg(any(feature = "rustls", feature = "native-tls"))]
pub(super) fn with_tls(mut builder: ClientBuilder, roots: &[Vec<u8>]) -> Result<ClientBuilder, LlmError> {
    for pem in roots {
        let certificates = reqwest::Certificate::from_pem_bundle(pem)
            .map_err(|error| wrong(format!("the root certificate is not PEM: {}", cause(&error))))?;
        if certificates.is_empty() {
            return Err(wrong(NO_CERTIFICATE));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    Ok(builder)
}

/// The platform's certificates, checked with ring. A library installs no provider for the whole process.
#[cfg(all(feature = "ring", not(feature = "rustls"), not(feature = "native-tls")))]
pub(super) fn with_tls(builder: ClientBuilder, roots: &[Vec<u8>]) -> Result<ClientBuilder, LlmError> {
    use std::sync::Arc;

    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use rustls_platform_verifier::Verifier;

    let mut certificates = Vec::new();
    for pem in roots {
        let before = certificates.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            certificates.push(
                certificate.map_err(|error| wrong(format!("the root certificate is not PEM: {error}")))?,
            );
        }
        if certificates.len() == before {
            return Err(wrong(NO_CERTIFICATE));
        }
    }
    let no_tls = |error: rustls::Error| wrong(format!("no TLS: {error}"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new_with_extra_roots(certificates, Arc::clone(&provider)).map_err(no_tls)?;
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(no_tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(builder.tls_backend_preconfigured(config))
}

/// There is no TLS in this build.
#[cfg(not(any(feature = "rustls", feature = "native-tls", feature = "ring")))]
pub(super) fn with_tls(builder: ClientBuilder, roots: &[Vec<u8>]) -> Result<ClientBuilder, LlmError> {
    if roots.is_empty() {
        Ok(builder)
    } else {
        Err(wrong(
            "a root certificate is of no use without TLS; build with the feature `rustls`, `ring` or `native-tls`",
        ))
    }
}

#[cfg(any(feature = "rustls", feature = "native-tls", feature = "ring"))]
const NO_CERTIFICATE: &str =
    "the root certificate has no certificate in it; it should begin with -----BEGIN CERTIFICATE-----";

#[cfg(all(test, feature = "ring", not(feature = "rustls"), not(feature = "native-tls")))]
mod tests {
    /// Without a provider for the whole process, which reqwest alone would ask for and panic.
    #[test]
    fn a_client_is_built_with_ring() {
        assert!(super::with_tls(reqwest::Client::builder(), &[]).is_ok());
        assert!(
            crate::OpenAi::builder()
                .base_url("https://127.0.0.1:9/v1")
                .api_key("none needed")
                .build()
                .is_ok()
        );
    }
}
