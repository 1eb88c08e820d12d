//! An OpenSSL provider whose generator has no state: each random byte is the kernel's.
//!
//! OpenSSL's own generator lives in the memory of each process. A forked machine copies that memory, so a server that was
//! warm before the fork would offer the same TLS randoms and keys in every child. The kernel's pool is reseeded in a restored
//! guest before its processes go on, so bytes drawn from there differ.
//!
//! The system's `openssl.cnf` names this library as a provider and `KERNEL-RANDOM` as the generator; OpenSSL 3 then makes one context
//! for each of its roles (primary, public, private) and asks it for bytes. All contexts here are the same nothing.
//!
//! It is a shared object without a standard library: it is loaded into every process that uses OpenSSL, so it brings along
//! nothing that could clash, allocate or slow a start. Built by `scripts/setup` as `cdylib`; in the workspace it is a plain
//! library, so that it is linted and tested like the rest.
#![cfg_attr(not(test), no_std)]

mod generator;
mod getrandom;
mod memory;
mod openssl;
mod provider;

pub use provider::OSSL_provider_init;

/// Nothing here panics; the compiler wants to be told what would happen.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
