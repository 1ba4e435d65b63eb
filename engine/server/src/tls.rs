//! Certificates: two PEM files become what the shards' TLS listeners present. Read at start and at every reload.
//!
//! What a connection began with it keeps: a reload concerns handshakes that come after it. Keys of session tickets live
//! as long as the process, so that a renewed certificate costs nobody a full handshake.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringdesk_shard::tls::TlsConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets, ServerConfig};
use rustls::version::{TLS12, TLS13};

/// ALPN of the binary protocol and of WebSocket (RFC 7301; `docs/WIRE.md`).
const ALPN_BINARY: &[u8] = b"ringdesk/1";
const ALPN_WEBSOCKET: &[u8] = b"http/1.1";

/// Tickets sent after a handshake of TLS 1.3. A client with several connections gets one from each.
const TICKETS: usize = 1;

/// Where certificate and key lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// PEM: the certificate, then those that lead to a root.
    pub certificate: PathBuf,
    /// PEM: its private key, PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// Why certificate and key were not taken. The sentence names the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsError {
    path: PathBuf,
    sentence: String,
}

impl TlsError {
    fn new(path: &Path, sentence: impl Into<String>) -> Self {
        Self { path: path.to_path_buf(), sentence: sentence.into() }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path.display(), self.sentence)
    }
}

impl std::error::Error for TlsError {}

/// A certificate in use.
#[derive(Clone, Debug)]
pub struct Certificate {
    files: TlsFiles,
    chain: Vec<CertificateDer<'static>>,
    tickets: Arc<dyn ProducesTickets>,
    /// What listeners present.
    pub config: TlsConfig,
}

impl Certificate {
    /// Reads the files; the keys of session tickets are new.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let tickets =
            Ticketer::new().map_err(|error| TlsError::new(&files.key, format!("cannot be used: {error}")))?;
        Self::read(files, tickets)
    }

    /// Reads the files again, or others; tickets given out before stay good. On an error nothing changed.
    pub fn renew(&self, files: &TlsFiles) -> Result<Self, TlsError> {
        Self::read(files, self.tickets.clone())
    }

    /// Whether two hold the same certificates from the same files.
    pub fn same_as(&self, other: &Self) -> bool {
        self.files == other.files && self.chain == other.chain
    }

    fn read(files: &TlsFiles, tickets: Arc<dyn ProducesTickets>) -> Result<Self, TlsError> {
        let chain = read_chain(&files.certificate)?;
        let bytes = read(&files.key)?;
        let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            pem::Error::NoItemsFound => TlsError::new(&files.key, "holds no private key in PEM form"),
            error => TlsError::new(&files.key, format!("is no PEM file: {error}")),
        })?;
        let provider = Arc::new(default_provider());
        let of = |alpn: &[u8]| server_config(files, &provider, &chain, &key, alpn, &tickets);
        let config = TlsConfig { binary: of(ALPN_BINARY)?, websocket: of(ALPN_WEBSOCKET)? };
        Ok(Self { files: files.clone(), chain, tickets, config })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::new(path, format!("cannot be read: {error}")))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let chain = chain.map_err(|error| TlsError::new(path, format!("is no PEM file: {error}")))?;
    if chain.is_empty() {
        return Err(TlsError::new(path, "holds no certificate in PEM form"));
    }
    Ok(chain)
}

/// TLS 1.3 and 1.2 with the provider's suites: AEAD only, every key exchange ephemeral. No early data, which could be
/// replayed; no client certificates, since tickets say who a client is.
fn server_config(
    files: &TlsFiles,
    provider: &Arc<CryptoProvider>,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    alpn: &[u8],
    tickets: &Arc<dyn ProducesTickets>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let refused = |error: rustls::Error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let certificate = files.certificate.display();
            TlsError::new(&files.key, format!("is not the key of the certificate in {certificate}"))
        }
        error => TlsError::new(&files.certificate, format!("cannot be used: {error}")),
    };
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(chain.to_vec(), key.clone_key())
        .map_err(refused)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.ticketer = tickets.clone();
    config.send_tls13_tickets = TICKETS;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        folder: PathBuf,
        files: TlsFiles,
    }

    impl Files {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("ringdesk-tls-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).expect("folder");
            let files = TlsFiles { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
            let made = Self { folder, files };
            let (certificate, key) = pair();
            made.write(&certificate, &key);
            made
        }

        fn write(&self, certificate: &str, key: &str) {
            std::fs::write(&self.files.certificate, certificate).expect("written");
            std::fs::write(&self.files.key, key).expect("written");
        }

        fn error(&self) -> String {
            Certificate::load(&self.files).expect_err("not in order").to_string()
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["desk.example".to_string()]).expect("made");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn good_files_are_taken_and_renewed() {
        let files = Files::new("good");
        let first = Certificate::load(&files.files).expect("in order");
        assert!(first.same_as(&first.renew(&files.files).expect("in order")));
        let (certificate, key) = pair();
        files.write(&certificate, &key);
        let second = first.renew(&files.files).expect("in order");
        assert!(!first.same_as(&second));
        assert!(Arc::ptr_eq(&first.tickets, &second.tickets), "tickets stay good");
        assert_eq!(second.config.binary.alpn_protocols, [b"ringdesk/1".to_vec()]);
        assert_eq!(second.config.websocket.alpn_protocols, [b"http/1.1".to_vec()]);
    }

    #[test]
    fn bad_files_are_told_apart() {
        let files = Files::new("bad");
        let (certificate, key) = pair();
        let cases = [
            (certificate.as_str(), pair().1.clone(), "is not the key of the certificate"),
            (certificate.as_str(), String::new(), "holds no private key"),
            ("", key.clone(), "holds no certificate"),
            ("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", key.clone(), "is no PEM file"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", key.clone(), "cannot be used"),
            (key.as_str(), key.clone(), "holds no certificate"),
        ];
        for (certificate, key, sentence) in cases {
            files.write(certificate, &key);
            let error = files.error();
            assert!(error.contains(sentence), "{error}");
        }
        std::fs::remove_file(&files.files.key).expect("there");
        files.write(&certificate, &key);
        std::fs::remove_file(&files.files.key).expect("there");
        assert!(files.error().contains("key.pem cannot be read"), "{}", files.error());
    }
}
