//! The certificate authorities that the server trusts for the certificate of the site.
//!
//! They are those of the system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR` as for curl and OpenSSL,
//! and those in `--site-ca-file`. On a system without any, the built-in list of Mozilla's counts.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls_native_certs::load_certs_from_paths;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::{Config, files};

const FLAG: &str = "--site-ca-file";
const VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
/// Maximum size of the file, more than a bundle of all public authorities.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The trusted authorities.
#[derive(Clone, PartialEq, Eq)]
pub struct SiteTrust {
    /// `None` stands for the built-in ones.
    certificates: Option<Arc<[CertificateDer<'static>]>>,
    /// Where they come from.
    source: String,
}

impl SiteTrust {
    /// The built-in authorities.
    pub fn built_in() -> SiteTrust {
        SiteTrust { certificates: None, source: "the built-in public authorities".to_owned() }
    }

    /// Where the authorities come from, without their number.
    pub fn sources(&self) -> String {
        let without_count = |source: &str| match source.rsplit_once(" (") {
            Some((name, count)) if count.contains(" certificate") => name.to_owned(),
            _ => source.to_owned(),
        };
        self.source.split(" and ").map(without_count).collect::<Vec<_>>().join(" and ")
    }

    /// The certificates of the authorities; `None` stands for the built-in ones.
    pub fn certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.certificates.as_deref()
    }

    /// Reads the authorities of the system, or those that the two variables name, and those of the
    /// file.
    fn load(file: Option<&Path>, variables: [Option<OsString>; 2]) -> Result<SiteTrust, String> {
        let mut sources = Vec::new();
        let mut certificates = load_system(variables, &mut sources)?;
        if let Some(path) = file {
            let own = read_file(path)?;
            sources.push(format!("{FLAG} ({})", count(own.len())));
            certificates.extend(own);
        }
        if certificates.is_empty() {
            let source = "the built-in public authorities, since this system has none (package \
                          ca-certificates)";
            return Ok(SiteTrust { source: source.to_owned(), ..SiteTrust::built_in() });
        }
        Ok(SiteTrust { certificates: Some(certificates.into()), source: sources.join(" and ") })
    }
}

/// The issuer of a certificate in DER, and whether that is the certificate itself; `None` if it
/// cannot be parsed.
pub fn issuer(certificate: &[u8]) -> Option<(String, bool)> {
    let parsed = Certificate::from_der(certificate).ok()?.tbs_certificate;
    Some((parsed.issuer.to_string(), parsed.issuer == parsed.subject))
}

impl fmt::Display for SiteTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// Does not print the certificates.
impl fmt::Debug for SiteTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteTrust({})", self.source)
    }
}

impl Config {
    /// Reads the authorities for the site's certificate: the built-in ones if the site is not
    /// reached with TLS.
    ///
    /// # Errors
    ///
    /// A message that names the file or the variable, and what is wrong.
    pub fn site_trust(&self) -> Result<SiteTrust, String> {
        let file = self.site_ca_file.as_deref();
        let uses_tls =
            self.buddyboss_url.as_ref().is_some_and(|url| url.as_str().starts_with("https:"));
        if !uses_tls {
            file.map(read_file).transpose()?;
            return Ok(SiteTrust::built_in());
        }
        SiteTrust::load(file, VARIABLES.map(env::var_os))
    }

    /// Reads the authorities of the system, without those of the site.
    pub fn system_trust() -> SiteTrust {
        SiteTrust::load(None, VARIABLES.map(env::var_os)).unwrap_or_else(|_| SiteTrust::built_in())
    }
}

/// Reads the authorities of the variables if one is set, else those of the system.
fn load_system(
    variables: [Option<OsString>; 2],
    sources: &mut Vec<String>,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let [file, dirs] = variables.map(|value| value.filter(|value| !value.is_empty()));
    let is_set = file.is_some() || dirs.is_some();
    let (file, dirs): (Option<PathBuf>, Vec<PathBuf>) = match is_set {
        true => (file.map(PathBuf::from), dirs.iter().flat_map(env::split_paths).collect()),
        false => {
            let found = openssl_probe::probe();
            (found.cert_file, found.cert_dir)
        }
    };
    let mut found = load_certs_from_paths(file.as_deref(), None);
    for dir in dirs.iter().filter(|dir| !dir.as_os_str().is_empty()) {
        let more = load_certs_from_paths(None, Some(dir));
        found.certs.extend(more.certs);
        found.errors.extend(more.errors);
    }
    found.certs.sort_unstable_by(|one, other| one.as_ref().cmp(other.as_ref()));
    found.certs.dedup();
    // A system's bundle may have some that are too odd to use.
    found.certs.retain(|certificate| check(certificate).is_ok());
    match (found.certs.len(), is_set) {
        (0, false) => {}
        (0, true) => {
            let names: Vec<&str> = VARIABLES
                .into_iter()
                .zip([file.is_some(), !dirs.is_empty()])
                .filter_map(|(name, is_set)| is_set.then_some(name))
                .collect();
            let why = found.errors.first().map_or_else(
                || "expected PEM with BEGIN CERTIFICATE".to_owned(),
                ToString::to_string,
            );
            return Err(format!(
                "{}: it has no certificate that can be used: {why}",
                names.join(", ")
            ));
        }
        (number, false) => {
            sources.push(format!("the system's authorities ({})", count(number)));
        }
        (number, true) => {
            let name = if file.is_some() { VARIABLES[0] } else { VARIABLES[1] };
            sources.push(format!("the authorities of {name} ({})", count(number)));
        }
    }
    Ok(found.certs)
}

fn count(number: usize) -> String {
    format!("{number} certificate{}", if number == 1 { "" } else { "s" })
}

/// Reads the certificates in the file of the setting.
fn read_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fault = |why: &str| format!("{FLAG} {}: {why}", path.display());
    let mut bytes = Vec::new();
    files::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| fault(&format!("it cannot be read: {error}")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(fault(&format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| fault(&format!("it is not valid PEM: {error}")))?;
    if certificates.is_empty() {
        let why = match bytes.first() {
            None => "it is empty: expected PEM with BEGIN CERTIFICATE",
            // The beginning of a certificate in DER.
            Some(0x30) => "it is in DER: convert it with openssl x509 -inform der -out ca.pem",
            Some(_) => "it contains no certificate: expected PEM with BEGIN CERTIFICATE",
        };
        return Err(fault(why));
    }
    for (number, certificate) in certificates.iter().enumerate() {
        check(certificate).map_err(|error| {
            fault(&format!("certificate {} cannot be used: {error}", number + 1))
        })?;
    }
    Ok(certificates)
}

fn check(certificate: &CertificateDer<'static>) -> Result<(), rustls::Error> {
    RootCertStore::empty().add(certificate.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHORITY: &str = "tests/tls/authority.pem";

    fn load(file: Option<&str>, variables: [&str; 2]) -> Result<SiteTrust, String> {
        let variables = variables.map(|value| Some(OsString::from(value)));
        SiteTrust::load(file.map(Path::new), variables)
    }

    fn folder(name: &str) -> PathBuf {
        let folder = env::temp_dir().join(format!("buddyline-ca-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn variables_replace_the_system_and_the_file_adds() {
        let system = load(None, ["", ""]).unwrap();
        let of_system = system.certificates().map_or(0, <[_]>::len);
        let only = load(None, [AUTHORITY, ""]).unwrap();
        assert_eq!(only.certificates().unwrap().len(), 1);
        assert_eq!(only.to_string(), "the authorities of SSL_CERT_FILE (1 certificate)");
        let added = load(Some(AUTHORITY), ["", ""]).unwrap();
        assert_eq!(added.certificates().unwrap().len(), of_system + 1);
        assert!(added.to_string().ends_with("--site-ca-file (1 certificate)"), "{added}");
        assert!(added.sources().ends_with(" and --site-ca-file"), "{added}");
        assert_eq!(only.sources(), "the authorities of SSL_CERT_FILE");
        assert_eq!(only, load(None, [AUTHORITY, ""]).unwrap());
        assert_ne!(only, added);

        let folder = folder("dir");
        std::fs::copy(AUTHORITY, folder.join("1.pem")).unwrap();
        let dirs = format!("/nowhere/at/all:{}", folder.display());
        let of_dirs = load(None, ["", &dirs]).unwrap();
        assert_eq!(of_dirs.certificates().unwrap().len(), 1);
        assert!(of_dirs.to_string().contains("SSL_CERT_DIR"), "{of_dirs}");
        // The same certificate from both counts once.
        let both = load(None, [AUTHORITY, &dirs]).unwrap();
        assert_eq!(both.certificates().unwrap().len(), 1);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn unusable_file_is_refused_with_its_name() {
        let folder = folder("bad");
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, bytes).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let der = CertificateDer::from_pem_file(AUTHORITY).unwrap();
        let begin = "-----BEGIN CERTIFICATE-----\n";
        let end = "\n-----END CERTIFICATE-----\n";
        for (path, word) in [
            ("/nowhere/ca.pem".to_owned(), "cannot be read"),
            ("/dev/null".to_owned(), "not a regular file"),
            (write("empty", b""), "it is empty"),
            (write("text", b"hello"), "it contains no certificate"),
            (write("der", &der), "it is in DER"),
            (write("key", include_bytes!("../../tests/tls/key.pem")), "contains no certificate"),
            (write("base64", format!("{begin}%%%%{end}").as_bytes()), "not valid PEM"),
            (write("other", format!("{begin}AAAA{end}").as_bytes()), "certificate 1 cannot be"),
        ] {
            let fault = load(Some(&path), ["", ""]).unwrap_err();
            assert!(fault.contains(&format!("--site-ca-file {path}")), "{fault}");
            assert!(fault.contains(word), "{fault}");
        }
        for (variables, name) in [
            (["/nowhere/ca.pem", ""], "SSL_CERT_FILE"),
            (["/dev/null", ""], "SSL_CERT_FILE"),
            (["", "/nowhere"], "SSL_CERT_DIR"),
        ] {
            let fault = load(None, variables).unwrap_err();
            assert!(fault.starts_with(&format!("{name}: it has no certificate")), "{fault}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
