//! Another build of the agent takes this one's place, while everything it started goes on.
//!
//! A snapshot carries the agent it was taken with. When a host that has another build restores it, the host sends its
//! build here. Theory of operation:
//!
//! 1. `route` takes the program into a sealed memory file and checks its length and digest.
//! 2. No new connection is taken, all others end, and work under way is waited for. From then on, whenever all tasks
//!    wait, everything the agent knows is in its structures and in the kernel: nothing is in between.
//! 3. The successor rehearses: as a child, it takes over a copy of it all, and says whether it could.
//! 4. The state is written for real (`state` is its format, `carrier` its file, `save` collects it) and `program`
//!    executes the successor in place. Same process: the children stay its children, open descriptors stay open, and
//!    output waits in pipes.
//! 5. The successor takes over (`resume`). Should it fail after all, it executes its predecessor, which goes on.
//!
//! Clients' connections do not survive; they reconnect, and read output on from the byte they had.

mod carrier;
mod program;
mod resume;
mod route;
mod save;
mod state;

pub use program::settle_in;
pub use resume::{Inherited, give_back, take_over};
pub use route::answer;
