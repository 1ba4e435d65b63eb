//! TLS between a client's socket and its frames: rustls as the client, every handshake in full, so that a connect rate
//! says what a crowd of strangers costs.
//!
//! Order: the ClientHello leaves when TCP stands; bytes received go through [`Secured::opened`] and come out as what the
//! server said; what a client says goes through [`Secured::seal`]. Ownership: one session per connected client, made when
//! it connects, gone with its connection.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// The name in the certificate of a server of our own.
pub const NAME: &str = "ringbench.test";

/// The TLS sessions of a swarm's clients.
pub struct Secured {
    config: Arc<ClientConfig>,
    sessions: Vec<Option<Box<ClientConnection>>>,
    plain: Vec<u8>,
}

/// The handshake or a record failed: the connection is of no use any more.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken;

impl Secured {
    /// For so many clients, who trust this certificate and nothing else.
    ///
    /// # Errors
    /// A sentence when the certificate cannot be used.
    pub fn new(clients: u32, certificate: CertificateDer<'static>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(|e| format!("the certificate made for this run is of no use: {e}"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS cannot be set up: {e}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"ringdesk/1".to_vec()];
        config.resumption = Resumption::disabled();
        let sessions = (0..clients).map(|_| None).collect();
        Ok(Self { config: Arc::new(config), sessions, plain: Vec::new() })
    }

    /// TCP stands: appends the ClientHello.
    pub fn begin(&mut self, who: u32, out: &mut Vec<u8>) {
        let name = ServerName::try_from(NAME).expect("a host name");
        let session =
            ClientConnection::new(self.config.clone(), name).expect("a configuration that was built");
        let session = self.sessions[who as usize].insert(Box::new(session));
        session.set_buffer_limit(None);
        session.write_tls(out).expect("a vector takes every byte");
    }

    /// Whether the handshake of a client is over.
    pub fn is_open(&self, who: u32) -> bool {
        self.sessions[who as usize].as_ref().is_some_and(|session| !session.is_handshaking())
    }

    /// Takes received bytes and appends what TLS answers by itself; gives what was inside. Give it back when it is read.
    ///
    /// # Errors
    /// [`Broken`], after which the connection is to be dropped.
    pub fn opened(&mut self, who: u32, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<Vec<u8>, Broken> {
        let session = self.sessions[who as usize].as_mut().ok_or(Broken)?;
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        while !bytes.is_empty() {
            session.read_tls(&mut bytes).map_err(|_| Broken)?;
            let state = session.process_new_packets().map_err(|_| Broken)?;
            let from = plain.len();
            plain.resize(from + state.plaintext_bytes_to_read(), 0);
            session.reader().read_exact(&mut plain[from..]).map_err(|_| Broken)?;
        }
        while session.wants_write() {
            session.write_tls(out).expect("a vector takes every byte");
        }
        Ok(plain)
    }

    /// Takes back the buffer that [`Secured::opened`] gave.
    pub fn give_back(&mut self, plain: Vec<u8>) {
        self.plain = plain;
    }

    /// Appends `plain` as records.
    pub fn seal(&mut self, who: u32, plain: &[u8], out: &mut Vec<u8>) {
        let Some(session) = &mut self.sessions[who as usize] else { return };
        session.writer().write_all(plain).expect("a buffer without a limit");
        while session.wants_write() {
            session.write_tls(out).expect("a vector takes every byte");
        }
    }

    /// The connection is gone.
    pub fn end(&mut self, who: u32) {
        self.sessions[who as usize] = None;
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use rustls::{ServerConfig, ServerConnection};

    use super::*;

    #[test]
    fn what_one_side_seals_the_other_reads() {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key.into())
                .unwrap();
        config.alpn_protocols = vec![b"ringdesk/1".to_vec()];
        let mut server = ServerConnection::new(Arc::new(config)).unwrap();
        let mut secured = Secured::new(2, made.cert.der().clone()).unwrap();
        let mut out = Vec::new();
        secured.begin(1, &mut out);
        let long = vec![7; 100_000];
        let (mut heard, mut said) = (Vec::new(), false);
        for _ in 0..20 {
            let mut wire = std::mem::take(&mut out);
            let mut bytes = wire.as_slice();
            while !bytes.is_empty() {
                server.read_tls(&mut bytes).unwrap();
                let state = server.process_new_packets().unwrap();
                let mut plain = vec![0; state.plaintext_bytes_to_read()];
                server.reader().read_exact(&mut plain).unwrap();
                heard.extend(plain);
            }
            if !server.is_handshaking() && !said {
                server.writer().write_all(b"welcome").unwrap();
                said = true;
            }
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let before = secured.is_open(1);
            let plain = secured.opened(1, &wire, &mut out).unwrap();
            assert!(plain.is_empty() || plain == b"welcome");
            secured.give_back(plain);
            if secured.is_open(1) && !before {
                secured.seal(1, &long, &mut out);
            }
        }
        assert!(heard == long && !secured.is_open(0));
        assert_eq!(secured.opened(1, b"no record of TLS", &mut out), Err(Broken));
        secured.end(1);
        assert!(!secured.is_open(1));
    }
}
