//! HTTP/1.1 requests and responses, without sockets: what arrives before a connection becomes a
//! WebSocket, or instead of that.
//!
//! [`handshake`] reads the first request of a connection: an upgrade, a health check, the try-it
//! page, a question for the status of a call ([`call_status`]), or the events of the site's plugin
//! ([`site_events`]). [`metrics_endpoint`] reads the requests on the metrics listener. The
//! [`wire`](crate::wire) calls this module and speaks WebSocket once the upgrade is accepted;
//! nothing here knows the wire.

pub(crate) mod call_status;
pub mod handshake;
mod headers;
mod methods;
pub(crate) mod metrics_endpoint;
mod origin;
mod request;
pub(crate) mod response;
pub mod site_events;
mod token;
mod try_page;
