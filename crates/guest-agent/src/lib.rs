//! The PandaStack guest agent: the envd protocol of E2B's clients, served from inside the sandbox.
//!
//! One thread runs everything; file work goes to blocking threads that act as the user (`as_user`). Two servers
//! share one state (`agent`): the *public* side demands the token set by `/init` and knows no control routes, the
//! *control* side is reached by the host only.

pub mod agent;
pub mod as_user;
pub mod auth;
pub mod connect;
pub mod control;
pub mod error;
pub mod files;
pub mod filesystem;
pub mod hold;
pub mod http;
pub mod init;
pub mod logs;
pub mod metrics;
pub mod netns;
pub mod paths;
pub mod process;
pub mod routes;
pub mod server;
pub mod sockets;
pub mod tunnel;
pub mod upgrade;
pub mod user;
pub mod watched;

/// The version of E2B's envd whose features this agent has; the control plane reports it to E2B's clients.
pub const ENVD_VERSION: &str = "0.6.7";
/// The agent's own version.
pub const AGENT_VERSION: &str = env!("CARGO_PKG_VERSION");
