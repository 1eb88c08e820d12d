//! The provider: what OpenSSL asks a loaded library for, answered with one generator.

use core::ffi::{c_int, c_void};
use core::ptr;

use crate::generator;
use crate::memory;
use crate::openssl::{self, Algorithm, Dispatch, Param, Value};

const OPERATION_RAND: c_int = 5;

static GENERATORS: [Algorithm; 2] = [
    Algorithm {
        names: c"KERNEL-RANDOM".as_ptr(),
        properties: c"provider=kernel-random".as_ptr(),
        implementation: ptr::from_ref(&generator::FUNCTIONS).cast(),
        description: c"getrandom(2), without a state in the process".as_ptr(),
    },
    Algorithm {
        names: ptr::null(),
        properties: ptr::null(),
        implementation: ptr::null(),
        description: ptr::null(),
    },
];

static PARAMS: [Param; 4] = [
    Param::text(c"name"),
    Param::text(c"version"),
    Param::int(c"status"),
    Param::END,
];

/// `OSSL_FUNC_PROVIDER_…`
static FUNCTIONS: [Dispatch; 5] = [
    Dispatch::new(1024, teardown as *const ()),
    Dispatch::new(1025, gettable_params as *const ()),
    Dispatch::new(1026, get_params as *const ()),
    Dispatch::new(1027, query_operation as *const ()),
    Dispatch::END,
];

extern "C" fn teardown(_: *mut c_void) {}

extern "C" fn gettable_params(_: *mut c_void) -> *const Param {
    ptr::from_ref(&PARAMS).cast()
}

/// # Safety
/// As [`openssl::answer`].
unsafe extern "C" fn get_params(_: *mut c_void, params: *mut Param) -> c_int {
    let known = [
        (c"name", Value::Text(c"Random bytes of the kernel")),
        (c"version", Value::Text(c"1")),
        (c"status", Value::Number(1)),
    ];
    // SAFETY: the caller's promise is the same.
    unsafe { openssl::answer(params, &known) }
}

/// # Safety
/// `no_cache` is null or points to a number.
unsafe extern "C" fn query_operation(
    _: *mut c_void,
    operation: c_int,
    no_cache: *mut c_int,
) -> *const Algorithm {
    // SAFETY: OpenSSL vouches for it.
    if let Some(no_cache) = unsafe { no_cache.as_mut() } {
        *no_cache = 0;
    }
    if operation == OPERATION_RAND {
        ptr::from_ref(&GENERATORS).cast()
    } else {
        ptr::null()
    }
}

/// The one name that OpenSSL looks up in the library.
///
/// # Safety
/// To be called by OpenSSL: `offered` is one of its arrays, the others point to what is to be filled in.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "OpenSSL's name")]
pub unsafe extern "C" fn OSSL_provider_init(
    handle: *const c_void,
    offered: *const Dispatch,
    functions: *mut *const Dispatch,
    context: *mut *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        memory::take(offered);
        functions.write(ptr::from_ref(&FUNCTIONS).cast());
        context.write(handle.cast_mut());
    }
    1
}
