//! What the settings mean for the parts of the server.

use std::io;

use crate::config::Config;
use crate::config::site_url::SiteUrl;
use crate::hub::interface::{Bounds, Settings, WaitBounds};
use crate::upstream::SiteSettings;
use crate::upstream::jwt::Verifier;

/// Descriptors that are not a client's: standard streams, poll, waker, signals, listeners.
const DESCRIPTORS_RESERVED: usize = 16;
/// Those of a worker: a connection to the site that is kept, one that is being made, a look-up of
/// the site's name.
const DESCRIPTORS_PER_WORKER: usize = 3;

/// How many connections there are descriptors for, once the system's limit is raised as far as it
/// goes. Without the reserve, idle clients would take the descriptors that messages need.
pub(super) fn room_for_connections(config: &Config) -> io::Result<usize> {
    let wanted = config.max_connections as usize;
    let workers = config.buddyboss_url.as_ref().map_or(0, |_| config.upstream_workers.into());
    let reserved = DESCRIPTORS_RESERVED + workers * DESCRIPTORS_PER_WORKER;
    let got = rlimit::increase_nofile_limit((wanted + reserved) as u64)?;
    let room = usize::try_from(got).unwrap_or(usize::MAX).saturating_sub(reserved).max(1);
    if room < wanted {
        log::warn!(
            "room for {room} connections instead of --max-connections {wanted}: the system allows \
             {got} open files (ulimit -n)"
        );
    }
    Ok(room.min(wanted))
}

/// Frames that wait for the site's word on people and threads, and their bytes.
const WAITING_MAX: usize = 50_000;
const WAITING_BYTES_MAX: usize = 64 << 20;

/// What the hub needs to know.
pub(super) fn hub_settings(config: &Config) -> Settings {
    Settings {
        trust: config.trust_mode(),
        presence: config.presence,
        membership_lasts: config.membership_lasts,
        anonymous_lasts: config.anonymous_lasts,
        // Messages have the other half.
        checks: usize::from(config.upstream_workers / 2).max(1),
        typing_lasts: config.typing_lasts,
        presence_grace: config.presence_grace,
        joins_per_connection: config.max_joins as usize,
        deliveries: Bounds {
            total: config.max_sending as usize,
            per_connection: config.max_sending_per_connection as usize,
            bytes: config.max_sending_bytes as usize,
        },
        waiting: WaitBounds {
            total: WAITING_MAX,
            bytes: WAITING_BYTES_MAX,
            // An app may join all its threads at once.
            per_connection: (config.max_joins as usize).saturating_add(64),
            bytes_per_connection: (config.max_frame_bytes as usize).saturating_mul(2),
        },
    }
}

/// How to reach the site. Fails when the secret cannot be read.
pub(super) fn site_settings(config: &Config, url: &SiteUrl) -> io::Result<SiteSettings> {
    let issuer = config.jwt_issuer.as_ref().unwrap_or(url);
    let keys = config.jwt_keys().map_err(io::Error::other)?;
    Ok(SiteSettings {
        workers: config.upstream_workers.into(),
        queue: config.upstream_queue as usize,
        request_timeout: config.upstream_timeout,
        token_header: config.token_header.clone(),
        verifier: keys.map(|keys| Verifier::new(&keys, issuer.clone())),
        ..SiteSettings::new(url.clone())
    })
}
