//! The settings that a seed decides once for a run: the server's, and the site's behavior.

use std::time::Duration;

use buddyline::config::{PresenceScope, Trust};
use buddyline::hub::interface::{CallSettings, DeliveryLimits, HeldFrameLimits, Settings};
use buddyline::protocol::ice::{IceServers, TurnServers};

use crate::rng::Rng;

/// The server's settings.
#[derive(Clone, Debug)]
pub struct RunConfig {
    pub hub: Settings,
    /// Above this many queued bytes a connection misses droppable frames.
    pub soft: usize,
    /// Above this many queued bytes a connection is closed as too slow.
    pub hard: usize,
    pub per_second: usize,
    pub burst: usize,
    pub ping_every: Option<Duration>,
}

/// How the site behaves during a run.
#[derive(Clone, Debug)]
pub struct SiteBehavior {
    /// The percentage of posts that fail in some way.
    pub post_failures_percent: u64,
    /// The percentage of queries about users and threads that fail.
    pub query_failures_percent: u64,
    /// The percentage of answers that are wrong.
    pub false_answers_percent: u64,
    /// The maximum latency of an answer, in milliseconds.
    pub latency_max_ms: u64,
    /// The percentage of post answers that contain all participants.
    pub full_lists_percent: u64,
    /// Whether some tokens expire.
    pub tokens_expire: bool,
}

/// Draws the settings of the server.
pub fn draw_config(rng: &mut Rng) -> RunConfig {
    let scopes = [PresenceScope::All, PresenceScope::Threads, PresenceScope::Off];
    let wide = rng.chance(60);
    let soft = if wide { 20_000 } else { rng.range(100, 1_000) as usize };
    let turn = TurnServers::new(vec!["turn:a".into()], b"a secret of the tests", 60);
    let hub = Settings {
        trust: if rng.chance(60) { Trust::Verified } else { Trust::Open },
        presence: rng.pick(&scopes),
        read_receipts: rng.chance(50),
        user_recheck_every: rng.pick(&[None, Some(20), Some(600)]).map(Duration::from_secs),
        user_proof_lasts: rng.pick(&[None, Some(1), Some(300)]).map(Duration::from_secs),
        membership_lasts: Duration::from_secs(60),
        anonymous_lasts: Duration::from_secs(30),
        site_queries: rng.range(1, 3) as usize,
        message_turn_lasts: rng.pick(&[None, Some(5), Some(40)]).map(Duration::from_secs),
        typing_lasts: Duration::from_secs(3),
        presence_grace: Duration::from_secs(5),
        joins_per_connection: rng.pick(&[2, 4, 100]),
        threads: rng.pick(&[3, 100]),
        calls: CallSettings::default(),
        deliveries: DeliveryLimits {
            total: rng.pick(&[4, 100]),
            per_connection: rng.pick(&[2, 50]),
            bytes: rng.pick(&[500, 100_000]),
        },
        held_frames: HeldFrameLimits {
            total: rng.pick(&[4, 100]),
            bytes: rng.pick(&[1_000, 100_000]),
            per_connection: rng.pick(&[3, 50]),
            bytes_per_connection: rng.pick(&[500, 50_000]),
        },
        ice: IceServers { stun_urls: Vec::new(), turn: Some(turn) },
    };
    RunConfig {
        hub,
        soft,
        hard: soft * 4,
        per_second: 50,
        burst: rng.pick(&[5, 200]),
        ping_every: rng.chance(70).then_some(Duration::from_secs(25)),
    }
}

/// Draws the behavior of the site.
pub fn draw_site_behavior(rng: &mut Rng) -> SiteBehavior {
    SiteBehavior {
        post_failures_percent: rng.pick(&[0, 10, 40]),
        query_failures_percent: rng.pick(&[0, 0, 30]),
        false_answers_percent: rng.pick(&[0, 0, 0, 15]),
        latency_max_ms: rng.pick(&[100, 5_000, 20_000]),
        full_lists_percent: rng.pick(&[0, 70, 100]),
        tokens_expire: rng.chance(40),
    }
}
