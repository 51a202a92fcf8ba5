//! Loads the server's TLS certificate and private key, and configures rustls with them.
//!
//! They come from two files or from two systemd credentials. The bytes read from the key file are
//! zeroed; the key inside the TLS library lives as long as it is in use.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::validity::Validity;
use super::{files, key_kind, secrets};

/// The names of the systemd credentials, files in `$CREDENTIALS_DIRECTORY`.
pub(crate) const CREDENTIALS: [&str; 2] = ["tls-cert", "tls-key"];

const CERT_FLAG: &str = "--tls-cert";
const KEY_FLAG: &str = "--tls-key";
/// Maximum size of the certificate file, far more than a chain needs.
const CERT_BYTES_MAX: u64 = 1 << 20;

/// A file, and its name in messages.
#[derive(Debug)]
struct NamedFile {
    path: PathBuf,
    name: String,
}

/// The files of the certificate and of its key.
#[derive(Debug)]
pub(super) struct TlsFiles {
    cert: NamedFile,
    key: NamedFile,
}

impl TlsFiles {
    /// Returns these files if they are set, else the systemd credentials (`LoadCredential=` in the
    /// unit). One of the two without the other is an error.
    pub(super) fn from_process(
        cert: Option<&Path>,
        key: Option<&Path>,
    ) -> Result<Option<TlsFiles>, String> {
        TlsFiles::new(cert, key, files::credentials_dir())
    }

    fn new(
        cert: Option<&Path>,
        key: Option<&Path>,
        credentials_dir: Option<PathBuf>,
    ) -> Result<Option<TlsFiles>, String> {
        let named = |flag: &str, path: &Path| NamedFile {
            path: path.to_owned(),
            name: format!("{flag} {}", path.display()),
        };
        match (cert, key) {
            (Some(cert), Some(key)) => {
                return Ok(Some(TlsFiles {
                    cert: named(CERT_FLAG, cert),
                    key: named(KEY_FLAG, key),
                }));
            }
            (Some(_), None) => return Err(incomplete_pair(CERT_FLAG, KEY_FLAG)),
            (None, Some(_)) => return Err(incomplete_pair(KEY_FLAG, CERT_FLAG)),
            (None, None) => {}
        }
        let credential = |name: &str| {
            let path = credentials_dir.as_ref()?.join(name);
            // A credential that exists but cannot be read is an error. An empty line is the unit's
            // default for none.
            let exists = path.try_exists().unwrap_or(true);
            let is_blank = || fs::read(&path).is_ok_and(|text| is_blank(text.into()));
            (exists && !is_blank())
                .then(|| NamedFile { name: format!("the credential {}", path.display()), path })
        };
        match CREDENTIALS.map(credential) {
            [Some(cert), Some(key)] => Ok(Some(TlsFiles { cert, key })),
            [None, None] => Ok(None),
            [Some(NamedFile { name, .. }), None] | [None, Some(NamedFile { name, .. })] => {
                let [cert, key] = CREDENTIALS;
                Err(format!("{name} is set alone: expected both credentials, {cert} and {key}"))
            }
        }
    }

    /// Reads the certificate and the key; also returns warnings for the operator.
    pub(super) fn read(&self) -> Result<(TlsIdentity, Vec<String>), String> {
        let mut warnings = Vec::new();
        let TlsFiles { cert, key } = self;
        let chain = read_cert(cert)?;
        let secret = secrets::read_file(&key.path, &key.name, &mut warnings)?;
        Ok((TlsIdentity::new((&cert.name, &chain), (&key.name, &secret))?, warnings))
    }
}

/// Whether a text is empty or white space. It may be the key, so it is zeroed.
fn is_blank(text: Zeroizing<Vec<u8>>) -> bool {
    text.trim_ascii().is_empty()
}

fn incomplete_pair(set: &str, unset: &str) -> String {
    format!("{set} is set and {unset} is not: expected both, or neither")
}

fn read_cert(NamedFile { path, name }: &NamedFile) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    files::open(path)
        .and_then(|file| file.take(CERT_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|fault| format!("{name}: it cannot be read: {fault}"))?;
    match bytes.len() as u64 > CERT_BYTES_MAX {
        true => Err(format!(
            "{name}: it is larger than {CERT_BYTES_MAX} bytes, too large for a certificate"
        )),
        false => Ok(bytes),
    }
}

mod identity {
    use std::fmt;
    use std::sync::Arc;

    use rustls::crypto::ring;
    use rustls::pki_types::pem::{self, PemObject};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::NoServerSessionStorage;
    use rustls::version::{TLS12, TLS13};
    use rustls::{Error, InconsistentKeys, ServerConfig};

    use super::{Validity, key_kind};

    /// In the first line of an encrypted key.
    const ENCRYPTED: &[u8] = b"ENCRYPTED";

    /// The certificate, its key and the TLS configuration that all connections share.
    #[derive(Clone)]
    pub struct TlsIdentity {
        settings: Arc<ServerConfig>,
        validity: Option<Validity>,
    }

    /// Does not print the key.
    impl fmt::Debug for TlsIdentity {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("TlsIdentity(…)")
        }
    }

    impl TlsIdentity {
        /// Parses certificate and key in PEM, each given with its name for messages.
        pub(super) fn new(
            (cert_name, cert): (&str, &[u8]),
            (key_name, key): (&str, &[u8]),
        ) -> Result<TlsIdentity, String> {
            let chain: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(cert)
                .map(|der| der.map(CertificateDer::into_owned))
                .collect::<Result<_, _>>()
                .map_err(|fault| format!("{cert_name}: it is not valid PEM: {fault}"))?;
            if chain.is_empty() {
                return Err(format!(
                    "{cert_name}: it contains no certificate: expected PEM with BEGIN CERTIFICATE, \
                     the server's own certificate first"
                ));
            }
            let validity = chain.first().and_then(|own| Validity::from_der(own));
            let kind = chain.first().and_then(|own| key_kind::of_certificate(own));
            let is_encrypted = key.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED);
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|fault| match fault {
                _ if is_encrypted => format!(
                    "{key_name}: it is encrypted, and the server cannot ask for its password: \
                     decrypt it with openssl pkey -in KEY -out NEW_KEY"
                ),
                pem::Error::NoItemsFound => format!(
                    "{key_name}: it contains no key: expected PEM, not encrypted, with BEGIN \
                     PRIVATE KEY, BEGIN RSA PRIVATE KEY or BEGIN EC PRIVATE KEY"
                ),
                // The error is not printed, because it may contain a part of the key.
                _ => format!("{key_name}: it is not valid PEM"),
            })?;
            let settings = settings(chain, key).map_err(|fault| match fault {
                Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    format!("{key_name}: it is not the key of the certificate in {cert_name}")
                }
                Error::InvalidCertificate(fault) => format!("{cert_name}: {fault:?}"),
                // The library says no more than that it cannot use the key.
                Error::General(_) => {
                    let of_kind =
                        kind.map_or_else(String::new, |kind| format!(" ({kind}, by {cert_name})"));
                    let expected = key_kind::SUPPORTED;
                    format!(
                        "{key_name}: the key is damaged or of a kind that is not \
                         supported{of_kind}: expected {expected}"
                    )
                }
                fault => format!("{cert_name}, {key_name}: {fault}"),
            })?;
            Ok(TlsIdentity { settings: Arc::new(settings), validity })
        }

        /// Returns the validity period of the certificate; `None` if it cannot be parsed.
        pub fn validity(&self) -> Option<Validity> {
            self.validity
        }

        /// Returns the TLS configuration for new connections.
        pub fn settings(&self) -> Arc<ServerConfig> {
            self.settings.clone()
        }
    }

    fn settings(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<ServerConfig, Error> {
        let provider = std::sync::Arc::new(ring::default_provider());
        let mut settings = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        // Sessions are resumed by tickets (RFC 5077, RFC 8446 2.2): the server stores no sessions
        // and needs no signature. The ticketer rotates its keys, and each certificate gets a new
        // one.
        settings.ticketer = ring::Ticketer::new()?;
        settings.session_storage = std::sync::Arc::new(NoServerSessionStorage {});
        settings.send_tls13_tickets = 1;
        // No early data: it can be replayed.
        settings.max_early_data_size = 0;
        settings.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(settings)
    }
}

pub(crate) use identity::TlsIdentity;
