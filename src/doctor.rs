//! `buddyline doctor`: looks whether all that the server needs is there, before or while it runs.
//!
//! What is *seen* ([`observations`]) is gathered by `collect`, which has the sockets and the clock; what it
//! *means* is judged by [`judge`], which has neither. Nothing at the site changes: all it is asked
//! is GET. Everything has its time, and so has the whole.

mod collect;
pub mod finding;
pub mod judge;
pub mod observations;
pub mod report;
pub mod token;

use std::time::Duration;

use crate::config::Config;
use crate::config::public_url::PublicUrl;
use crate::protocol::credential::Credential;
use finding::Finding;

const JWT_SECRET: &str = "JWT secret file";
const TURN_SECRET: &str = "TURN secret file";

/// What is to be examined besides the settings.
pub struct ExamineOptions {
    /// A member's token, to be tried.
    pub credential: Option<Credential>,
    /// Where clients reach the server, through its proxy.
    pub public_url: Option<PublicUrl>,
    /// For all of it.
    pub within: Duration,
}

/// Looks at everything and says what it means, in the order in which it should be set right.
///
/// # Errors
///
/// A secret cannot be read: a sentence about why.
pub fn examine(config: &Config, options: &ExamineOptions) -> Result<Vec<Finding>, String> {
    let keys = config.jwt_keys_with_warnings()?;
    let validity = config.load_secrets()?.identity.and_then(|identity| identity.validity());
    let warnings = keys.as_ref().map(|(_, warnings)| warnings.clone());
    let seen = collect::collect_all(config, options, keys.map(|(keys, _)| keys));
    let mut findings = judge::site::judge(&seen);
    findings.extend(judge::secret_file(JWT_SECRET, warnings.as_deref()));
    findings.extend(check_calls(config)?);
    findings.extend(validity.map(|validity| judge::certificate(validity, collect::now_s())));
    findings.extend(judge::machine(&seen.machine, false));
    findings.extend(judge::public::judge(seen.public.as_ref()));
    Ok(findings)
}

/// Looks at what needs no network: the files that the settings name, the addresses to listen on,
/// and the system's limits.
///
/// # Errors
///
/// As for [`examine`].
pub fn check_machine(config: &Config) -> Result<Vec<Finding>, String> {
    let keys = config.jwt_keys_with_warnings()?;
    let warnings = keys.map(|(_, warnings)| warnings);
    let validity = config.load_secrets()?.identity.and_then(|identity| identity.validity());
    let mut findings = judge::secret_file(JWT_SECRET, warnings.as_deref());
    findings.extend(check_calls(config)?);
    findings.extend(validity.map(|validity| judge::certificate(validity, collect::now_s())));
    findings.extend(judge::machine(&collect::machine::collect(config), true));
    Ok(findings)
}

/// What calls are helped with, and the secret for it.
fn check_calls(config: &Config) -> Result<Vec<Finding>, String> {
    let secret = config.turn_secret_with_warnings()?;
    let warnings = secret.map(|(_, warnings)| warnings);
    let mut findings = judge::secret_file(TURN_SECRET, warnings.as_deref());
    findings.extend(judge::ice(&config.ice, config.trust_mode()));
    Ok(findings)
}
