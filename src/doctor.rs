//! `buddyline doctor` and `check-config`: check settings, machine, site and proxy for problems.
//!
//! `collect` does the I/O and records [`observations`]; [`judge`] turns them into findings, without
//! sockets or a clock. All requests to the site are GETs: nothing on it changes. Each step has a
//! time limit, and so has the whole examination.

mod collect;
pub mod finding;
pub mod health;
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
const JWT_KEY: &str = "JWT key file";
const SITE_SECRET: &str = "site secret file";
const SITE_PASSWORD: &str = "site password file";
const TURN_SECRET: &str = "TURN secret file";

/// The subjects to examine besides the settings.
pub struct ExamineOptions {
    /// A member's token or Application Password to try.
    pub credential: Option<Credential>,
    /// The address at which clients reach the server, through its proxy.
    pub public_url: Option<PublicUrl>,
    /// The time limit of the whole examination.
    pub within: Duration,
}

/// Examines everything; returns the findings in the order in which problems should be fixed.
///
/// # Errors
///
/// A sentence that says why a secret cannot be read.
pub fn examine(config: &Config, options: &ExamineOptions) -> Result<Vec<Finding>, String> {
    let keys = config.jwt_keys_with_warnings()?;
    let secrets = config.load_secrets()?;
    let validity = secrets.identity.and_then(|identity| identity.validity());
    let observations = collect::collect_all(
        config,
        options,
        keys.map(|(keys, _)| keys),
        secrets.site_trust,
        config.site_route()?,
    );
    let mut findings = judge::site::judge(&observations);
    let plugin = observations.site.as_ref().and_then(|site| site.plugin.as_ref());
    findings.extend(judge::plugin::judge(plugin));
    // Without a site, its finding says the same.
    findings.extend(config.buddyboss_url.as_ref().map(|_| judge::trust(config)));
    findings.extend(check_site_files(config)?);
    findings.extend(check_calls(config)?);
    findings.extend(validity.map(|validity| judge::certificate(validity, collect::now_s())));
    findings.extend(judge::machine(&observations.machine, false));
    findings.extend(judge::public::judge(observations.public.as_ref()));
    Ok(findings)
}

/// Examines what needs no network: the files that the settings name, the addresses to listen on,
/// and the system's limits.
///
/// # Errors
///
/// As for [`examine`].
pub fn check_machine(config: &Config) -> Result<Vec<Finding>, String> {
    let keys = config.jwt_keys_with_warnings()?;
    let validity = config.load_secrets()?.identity.and_then(|identity| identity.validity());
    let mut findings = vec![judge::trust(config)];
    findings.extend(judge::missing_key(config, keys.is_some()));
    findings.extend(check_site_files(config)?);
    if config.site_password_with_warnings()?.is_some() {
        findings.push(judge::site_password(&config.token_header));
    }
    findings.extend(check_calls(config)?);
    findings.extend(validity.map(|validity| judge::certificate(validity, collect::now_s())));
    findings.extend(judge::machine(&collect::machine::collect(config), true));
    Ok(findings)
}

/// Checks the files of the site's keys and of its password.
fn check_site_files(config: &Config) -> Result<Vec<Finding>, String> {
    let secret = config.jwt_secret_with_warnings()?.map(|(_, warnings)| warnings);
    let mut findings = judge::secret_file(JWT_SECRET, secret.as_deref());
    if let Some((keys, warnings)) = config.public_keys_with_warnings()? {
        findings.extend(judge::key_file(JWT_KEY, &keys, &warnings));
    }
    let secret = config.site_secret_with_warnings()?.map(|(_, warnings)| warnings);
    findings.extend(judge::secret_file(SITE_SECRET, secret.as_deref()));
    let password = config.site_password_with_warnings()?.map(|(_, warnings)| warnings);
    findings.extend(judge::secret_file(SITE_PASSWORD, password.as_deref()));
    Ok(findings)
}

/// Checks the STUN and TURN settings for calls and the TURN secret.
fn check_calls(config: &Config) -> Result<Vec<Finding>, String> {
    let secret = config.turn_secret_with_warnings()?;
    let warnings = secret.map(|(_, warnings)| warnings);
    let mut findings = judge::secret_file(TURN_SECRET, warnings.as_deref());
    findings.extend(judge::ice(&config.ice, config.trust_mode()));
    Ok(findings)
}
