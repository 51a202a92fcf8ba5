//! Translation of the settings into the parameters of the server's parts.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::admission::Admission;
use super::connections::BufferLimits;
use super::timeouts::Timeouts;
use crate::config::calls::WhenBusy;
use crate::config::ice::{IceUrl, TurnSecret};
use crate::config::jwt_issuer::Issuer;
use crate::config::limits::{Limits, NEVER, UNLIMITED};
use crate::config::secrets::JwtKeys;
use crate::config::site_password::SitePassword;
use crate::config::site_proxy::{SiteProxy, SiteRoute};
use crate::config::site_secret::SiteSecret;
use crate::config::site_url::SiteUrl;
use crate::config::{Config, ReadReceipts};
use crate::http::handshake::Rules;
use crate::hub::interface::{CallSettings, DeliveryLimits, HeldFrameLimits, Settings};
use crate::process;
use crate::protocol::credential::Credential;
use crate::protocol::ice::{IceServers, TurnServers};
use crate::protocol::signature::SiteKeys;
use crate::upstream::jwt::Verifier;
use crate::upstream::jwt::ticket::TicketVerifier;
use crate::upstream::{SiteSettings, Upstream};
use crate::wire::Codec;

/// Connection limits. Raises the limit on open files as far as the system allows, and reserves some
/// for requests to the site: otherwise idle clients could take the descriptors that messages need.
pub(super) fn admission(config: &Config) -> io::Result<Admission> {
    let limits = config.limits();
    let wanted = limits.max_connections;
    let reserved = config.reserved_descriptors();
    let ask = config.nofile.unwrap_or(wanted.saturating_add(reserved) as u64);
    let got = rlimit::increase_nofile_limit(ask)?;
    let room = usize::try_from(got).unwrap_or(usize::MAX).saturating_sub(reserved).max(1);
    log::info!("open files: {got} allowed, room for {} connections", room.min(wanted));
    if config.nofile.is_some_and(|asked| got < asked) {
        log::warn!("--nofile {ask}: the system allows no more than {got} (its hard limit)");
    }
    if room < wanted && wanted != UNLIMITED {
        log::warn!(
            "room for {room} connections instead of --max-connections {wanted}: the system allows \
             {got} open files (ulimit -n)"
        );
    }
    let per_address = limits.max_connections_per_address;
    Ok(Admission::new(wanted, room, per_address, config.proxies()))
}

/// Limits of memory held for slow clients.
pub(super) fn buffer_limits(limits: &Limits) -> BufferLimits {
    BufferLimits {
        soft: limits.soft_outbox_bytes.min(limits.max_outbox_bytes),
        hard: limits.max_outbox_bytes,
        total: limits.max_buffer_bytes,
    }
}

/// Timeouts of clients.
pub(super) fn timeouts(limits: &Limits) -> Timeouts {
    Timeouts { handshake_lasts: limits.handshake_lasts, ping_every: limits.ping_every }
}

/// Frames held while they wait for a query of the site, and their bytes.
const HELD_FRAMES_MAX: usize = 50_000;
const HELD_FRAME_BYTES_MAX: usize = 64 << 20;

/// Settings of the hub, with the TURN secret if there is one.
pub(super) fn hub_settings(config: &Config, turn: Option<TurnSecret>) -> Settings {
    let (limits, calls) = (config.limits(), config.calls());
    Settings {
        trust: config.trust_mode(),
        presence: config.presence,
        membership_lasts: config.membership_lasts,
        read_receipts: config.read_receipts == ReadReceipts::On,
        user_recheck_every: Some(config.user_recheck_every).filter(|every| !every.is_zero()),
        user_proof_lasts: Some(config.user_proof_lasts).filter(|lasts| !lasts.is_zero()),
        anonymous_lasts: limits.anonymous_lasts,
        // Messages use the other half of the workers.
        site_queries: usize::from(config.upstream_workers / 2).max(1),
        message_turn_lasts: Some(limits.message_turn_lasts).filter(|lasts| *lasts < NEVER),
        typing_lasts: config.typing_lasts,
        presence_grace: config.presence_grace,
        joins_per_connection: limits.max_joins,
        threads: limits.max_threads,
        deliveries: DeliveryLimits {
            total: limits.max_sending,
            per_connection: limits.max_sending_per_connection,
            bytes: limits.max_sending_bytes,
        },
        held_frames: HeldFrameLimits {
            total: HELD_FRAMES_MAX,
            bytes: HELD_FRAME_BYTES_MAX,
            // An app may join all its threads at once.
            per_connection: limits.max_joins.saturating_add(64),
            bytes_per_connection: limits.max_frame_bytes.saturating_mul(2),
        },
        calls: CallSettings {
            total: calls.max_calls,
            attempts: calls.max_call_attempts,
            ring_lasts: calls.ring_lasts,
            grace: calls.call_grace,
            ring_grace: config.presence_grace,
            reject_when_busy: calls.when_busy == WhenBusy::Refuse,
        },
        ice: ice_servers(config, turn),
    }
}

/// STUN and TURN servers that are sent to clients for calls.
fn ice_servers(config: &Config, secret: Option<TurnSecret>) -> IceServers {
    let urls = |urls: &[IceUrl]| urls.iter().map(|url| url.as_str().into()).collect();
    let ice = &config.ice;
    let turn = secret.map(|secret| {
        TurnServers::new(urls(&ice.turn_url), secret.bytes(), ice.turn_ttl.as_secs())
    });
    IceServers { stun_urls: urls(&ice.stun_url), turn }
}

/// Verifier of the site's tokens; `None` if no key of the site is known.
pub(super) fn verifier(config: &Config, keys: Option<JwtKeys>) -> Option<Verifier> {
    let verifier = Verifier::new(&keys?, config.jwt_issuers());
    Some(verifier.require_expiry(config.requires_jwt_expiry()))
}

/// The keys that are derived from the secret of the site's plugin.
pub(super) fn site_keys(secret: Option<&SiteSecret>) -> Option<SiteKeys> {
    secret.map(|secret| SiteKeys::new(secret.secrets()))
}

/// Verifier of the tickets of the site's plugin; `None` without its secret.
pub(super) fn tickets(config: &Config, keys: Option<SiteKeys>) -> Option<TicketVerifier> {
    let issuers = config.buddyboss_url.iter().map(Issuer::from).chain(config.jwt_issuers());
    Some(TicketVerifier::new(keys?, issuers.collect()))
}

/// The codec of all connections.
pub(super) fn codec(config: &Config, site_events: bool) -> Codec {
    let rules = Rules { site_events, ..Rules::new(config) };
    Codec::new(config.limits().max_frame_bytes, rules)
}

/// The password of the site's web server as a client would present it.
pub(super) fn site_credential(password: &SitePassword) -> Option<Credential> {
    Credential::from_authorization(password.header())?.ok()
}

/// The upstream for a site, with its worker threads.
pub(super) fn upstream(
    config: &Config,
    url: &SiteUrl,
    site_keys: Option<SiteKeys>,
    waker: Arc<mio::Waker>,
    started: Instant,
) -> io::Result<Upstream> {
    let settings = site_settings(config, url, site_keys)?;
    Upstream::site(&settings, waker, started).map_err(|fault| {
        let what = format!("a thread for requests to the site (of {})", settings.workers);
        io::Error::other(process::explain_thread_fault(&what, &fault))
    })
}

/// The proxy for the site. Logs it, because a variable may be set for other programs.
fn site_proxy(config: &Config) -> io::Result<Option<SiteProxy>> {
    match config.site_route().map_err(io::Error::other)? {
        SiteRoute::Direct => Ok(None),
        SiteRoute::Excluded(variable) => {
            log::info!("{variable} is not used for the site: NO_PROXY excludes it");
            Ok(None)
        }
        SiteRoute::Proxy(proxy) => {
            log::info!("requests to the site go through the proxy {proxy}");
            Ok(Some(proxy))
        }
    }
}

/// Settings of the upstream. Fails if a file that they name cannot be read.
fn site_settings(
    config: &Config,
    url: &SiteUrl,
    site_keys: Option<SiteKeys>,
) -> io::Result<SiteSettings> {
    let trust = config.site_trust().map_err(io::Error::other)?;
    if url.as_str().starts_with("https:") {
        log::info!("certificate authorities for the site: {trust}");
    }
    Ok(SiteSettings {
        workers: config.upstream_workers.into(),
        queue: config.upstream_queue as usize,
        request_timeout: config.upstream_timeout,
        token_header: config.token_header.clone(),
        password: config.site_password().map_err(io::Error::other)?,
        trust,
        proxy: site_proxy(config)?,
        tickets: tickets(config, site_keys.clone()),
        site_keys,
        verifier: verifier(config, config.jwt_keys().map_err(io::Error::other)?),
        ..SiteSettings::new(url.clone())
    })
}
