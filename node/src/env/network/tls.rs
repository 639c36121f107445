//! [adapter] TLS 1.3 with raw public keys (RFC 7250): a node's Ed25519 key is its TLS key.
//!
//! There are no certificates: each side shows its key and signs the handshake with it, and
//! rustls' provider checks the signatures. The caller knows whose key it wants and hangs up on any
//! other before it has sent more than its hello. The one who is called takes any key that is
//! proved; what the key may do is decided by the door. No tickets, no resumption, no 0-RTT: each
//! connection proves the key anew, so a removed one is out at once.
//! `docs/decisions/0008-raw-public-keys.md` has the reasons.

use super::handshake::Wanted;
use aber_proto::{PublicKey, SecretKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerMisbehaved, ServerConfig, SignatureAlgorithm, SignatureScheme, version,
};
use std::sync::{Arc, OnceLock};

/// What stands in front of an Ed25519 key in a `SubjectPublicKeyInfo` (RFC 8410 §4).
const SPKI_HEAD: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const EXPORTER_LABEL: &[u8] = b"EXPORTER-aber-join";

/// What is spoken under TLS. A listener of something else refuses it, so that a caller at the
/// wrong port hears so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    /// Links of nodes, and requests to join.
    Links,
    /// The API.
    Api,
}

impl Protocol {
    fn alpn(self) -> Vec<u8> {
        match self {
            Self::Links => b"h2".to_vec(),
            Self::Api => b"aber-api".to_vec(),
        }
    }
}

const PROVEN: &str = "ring's provider has TLS 1.3";

/// What TLS needs to know of this node.
pub(super) struct Tls {
    protocol: Protocol,
    own: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
    server: Arc<ServerConfig>,
}

impl Tls {
    pub(super) fn new(key: Arc<SecretKey>, protocol: Protocol) -> Self {
        let own = key.public();
        Self::showing(key, own, protocol)
    }

    /// Shows one key and signs with another, as somebody does who lies.
    #[cfg(test)]
    pub(super) fn lying(key: Arc<SecretKey>, shown: PublicKey, protocol: Protocol) -> Self {
        Self::showing(key, shown, protocol)
    }

    fn showing(key: Arc<SecretKey>, shown: PublicKey, protocol: Protocol) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let spki = spki_of(&shown);
        let own = CertifiedKey::new(
            vec![CertificateDer::from(spki.clone())],
            Arc::new(NodeKey { key, spki }),
        );
        let own = Arc::new(own);
        let verifier = AnyKey {
            algorithms: provider.signature_verification_algorithms,
        };
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])
            .expect(PROVEN)
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                Arc::clone(&own),
            )));
        server.alpn_protocols = vec![protocol.alpn()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;
        Self {
            protocol,
            own,
            provider,
            server: Arc::new(server),
        }
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For one call; `seen` gets the key that answers.
    pub(super) fn client(&self, wanted: Wanted, seen: Arc<OnceLock<PublicKey>>) -> ClientConfig {
        let verifier = OneKey {
            wanted,
            seen,
            algorithms: self.provider.signature_verification_algorithms,
        };
        let own = AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&self.own));
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&version::TLS13])
            .expect(PROVEN)
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(own));
        client.alpn_protocols = vec![self.protocol.alpn()];
        client.resumption = Resumption::disabled();
        client.enable_early_data = false;
        client.enable_sni = false;
        client
    }
}

/// A name that nobody looks at: keys are checked, not names.
pub(super) fn nobody() -> ServerName<'static> {
    ServerName::try_from("aber").expect("a valid name")
}

/// The other side's key and the 32 bytes both sides of a finished handshake, and only they, know.
pub(super) fn outcome(
    tls: &tokio_rustls::TlsStream<tokio::net::TcpStream>,
) -> Result<(PublicKey, [u8; 32]), Error> {
    use tokio_rustls::TlsStream::{Client, Server};
    let certificates = tls.get_ref().1.peer_certificates();
    let key = certificates.and_then(|all| all.first()).and_then(key_of);
    let key = key.ok_or(Error::NoCertificatesPresented)?;
    let exporter = match tls {
        Client(tls) => tls
            .get_ref()
            .1
            .export_keying_material([0; 32], EXPORTER_LABEL, None)?,
        Server(tls) => tls
            .get_ref()
            .1
            .export_keying_material([0; 32], EXPORTER_LABEL, None)?,
    };
    Ok((key, exporter))
}

fn spki_of(key: &PublicKey) -> Vec<u8> {
    [&SPKI_HEAD[..], &key.0].concat()
}

fn key_of(shown: &CertificateDer<'_>) -> Option<PublicKey> {
    let key = shown.strip_prefix(&SPKI_HEAD[..])?;
    Some(PublicKey(key.try_into().ok()?))
}

fn shown_key(
    shown: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<PublicKey, Error> {
    let key = key_of(shown).filter(|_| intermediates.is_empty());
    key.ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// What rustls asks of a verifier on either side beside whose key it takes: that signatures are
/// those of a raw Ed25519 key. TLS 1.2 is not built in.
macro_rules! raw_key_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _shown: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            shown: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
            verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    };
}

/// The node's key as TLS wants it. The seed stays where it is.
#[derive(Clone, Debug)]
struct NodeKey {
    key: Arc<SecretKey>,
    spki: Vec<u8>,
}

impl SigningKey for NodeKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let is_offered = offered.contains(&SignatureScheme::ED25519);
        is_offered.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.spki.as_slice()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for NodeKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.key.sign_tls13(message);
        let signature = signature.ok_or_else(|| Error::General("not a handshake".to_owned()))?;
        Ok(signature.to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// Takes the one key that is wanted.
#[derive(Debug)]
struct OneKey {
    wanted: Wanted,
    seen: Arc<OnceLock<PublicKey>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for OneKey {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = shown_key(shown, intermediates)?;
        let _ = self.seen.set(key);
        if self.wanted.fits(&key) {
            Ok(ServerCertVerified::assertion())
        } else {
            let why = CertificateError::ApplicationVerificationFailure;
            Err(Error::InvalidCertificate(why))
        }
    }

    raw_key_signatures!();
}

/// Takes any key, but not without one.
#[derive(Debug)]
struct AnyKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        shown_key(shown, intermediates).map(|_| ClientCertVerified::assertion())
    }

    raw_key_signatures!();
}
