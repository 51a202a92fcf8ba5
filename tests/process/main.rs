//! The built binary over real sockets: start, stop, reload, limits, logs, metrics and TLS.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod doctor;
mod doctor_judgement;
mod doctor_plugin;
mod empty_variables;
mod frames;
mod health;
mod hostile;
mod journal;
mod lifecycle;
mod limits;
mod listening;
mod load;
mod log_forms;
mod log_level;
mod metrics;
mod outage;
mod proxy_protocol;
mod restarts;
mod secrets;
mod server;
mod site;
mod site_events;
mod site_proxy;
mod site_tls;
mod start_faults;
mod supervised;
mod tickets;
mod tls;
mod unusable_site;
mod verified;
