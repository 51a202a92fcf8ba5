//! What a seed decides once: the server's settings, and how the site is.

use std::time::Duration;

use buddyline::config::{PresenceScope, Trust};
use buddyline::hub::interface::{CallSettings, DeliveryLimits, HeldFrameLimits, Settings};
use buddyline::protocol::ice::{IceServers, TurnServers};

use crate::dice::Dice;

/// What a seed decides once.
#[derive(Clone, Debug)]
pub struct Plan {
    pub hub: Settings,
    pub soft: usize,
    pub hard: usize,
    pub per_second: usize,
    pub burst: usize,
    pub ping_every: Option<Duration>,
}

/// How the site is today.
#[derive(Clone, Debug)]
pub struct Mood {
    /// Posts of a hundred that fail in some way.
    pub trouble: u64,
    /// Questions about people and threads of a hundred that are not answered.
    pub silence: u64,
    /// Answers of a hundred that are not true.
    pub lies: u64,
    /// An answer takes up to this, in milliseconds.
    pub slow_ms: u64,
    /// Answers to posts of a hundred that hold all participants.
    pub holds_all: u64,
    /// Tokens expire.
    pub expires: bool,
}

/// The settings of a server.
pub fn draw_plan(dice: &mut Dice) -> Plan {
    let scopes = [PresenceScope::All, PresenceScope::Threads, PresenceScope::Off];
    let wide = dice.chance(60);
    let soft = if wide { 20_000 } else { dice.between(100, 1_000) as usize };
    let turn = TurnServers::new(vec!["turn:a".into()], b"a secret of the tests", 60);
    let hub = Settings {
        trust: if dice.chance(60) { Trust::Verified } else { Trust::Open },
        presence: dice.pick(&scopes),
        membership_lasts: Duration::from_secs(60),
        anonymous_lasts: Duration::from_secs(30),
        site_queries: dice.between(1, 3) as usize,
        message_turn_lasts: dice.pick(&[None, Some(5), Some(40)]).map(Duration::from_secs),
        typing_lasts: Duration::from_secs(3),
        presence_grace: Duration::from_secs(5),
        joins_per_connection: dice.pick(&[2, 4, 100]),
        threads: dice.pick(&[3, 100]),
        calls: CallSettings::default(),
        deliveries: DeliveryLimits {
            total: dice.pick(&[4, 100]),
            per_connection: dice.pick(&[2, 50]),
            bytes: dice.pick(&[500, 100_000]),
        },
        held_frames: HeldFrameLimits {
            total: dice.pick(&[4, 100]),
            bytes: dice.pick(&[1_000, 100_000]),
            per_connection: dice.pick(&[3, 50]),
            bytes_per_connection: dice.pick(&[500, 50_000]),
        },
        ice: IceServers { stun_urls: Vec::new(), turn: Some(turn) },
    };
    Plan {
        hub,
        soft,
        hard: soft * 4,
        per_second: 50,
        burst: dice.pick(&[5, 200]),
        ping_every: dice.chance(70).then_some(Duration::from_secs(25)),
    }
}

/// How its site is.
pub fn draw_mood(dice: &mut Dice) -> Mood {
    Mood {
        trouble: dice.pick(&[0, 10, 40]),
        silence: dice.pick(&[0, 0, 30]),
        lies: dice.pick(&[0, 0, 0, 15]),
        slow_ms: dice.pick(&[100, 5_000, 20_000]),
        holds_all: dice.pick(&[0, 70, 100]),
        expires: dice.chance(40),
    }
}
