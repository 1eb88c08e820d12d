//! The part of OpenSSL's provider interface that is used here: `core.h`, `core_dispatch.h` and `core_names.h` of 3.0 and later.
//!
//! The interface is stable within a major version: numbers are never reused, and a core ignores those it does not know.

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use core::ptr;

/// A function and what it is for; an array ends with number 0.
#[repr(C)]
pub struct Dispatch {
    /// One of the interface's numbers.
    pub number: c_int,
    /// The function, whose type the number decides.
    pub function: *const (),
}

// SAFETY: what is pointed to is code.
unsafe impl Sync for Dispatch {}

impl Dispatch {
    /// The end of an array.
    pub const END: Self = Self::new(0, ptr::null());

    /// The function with that number.
    pub const fn new(number: c_int, function: *const ()) -> Self {
        Self { number, function }
    }
}

/// An algorithm of an operation; an array ends with null names.
#[repr(C)]
pub struct Algorithm {
    /// What it is fetched by.
    pub names: *const c_char,
    /// Its properties.
    pub properties: *const c_char,
    /// Its functions.
    pub implementation: *const Dispatch,
    /// For people.
    pub description: *const c_char,
}

// SAFETY: what is pointed to is constant.
unsafe impl Sync for Algorithm {}

/// A parameter that a caller asks for, or that a description names; an array ends with a null key.
#[repr(C)]
pub struct Param {
    key: *const c_char,
    kind: c_uint,
    data: *mut c_void,
    size: usize,
    returned: usize,
}

// SAFETY: static ones are descriptions, whose only pointer is to a constant name.
unsafe impl Sync for Param {}

const UNSIGNED: c_uint = 2;
const SIGNED: c_uint = 1;
const TEXT: c_uint = 6;
const UNMODIFIED: usize = usize::MAX;

impl Param {
    /// The end of an array.
    pub const END: Self = Self {
        key: ptr::null(),
        ..Self::described(c"", 0, 0)
    };

    /// Describes a signed number of the C type `int`.
    pub const fn int(key: &'static CStr) -> Self {
        Self::described(key, SIGNED, size_of::<c_int>())
    }

    /// Describes an unsigned number of `size` bytes.
    pub const fn unsigned(key: &'static CStr, size: usize) -> Self {
        Self::described(key, UNSIGNED, size)
    }

    /// Describes a pointer to text.
    pub const fn text(key: &'static CStr) -> Self {
        Self::described(key, TEXT, 0)
    }

    const fn described(key: &'static CStr, kind: c_uint, size: usize) -> Self {
        Self {
            key: key.as_ptr(),
            kind,
            data: ptr::null_mut(),
            size,
            returned: UNMODIFIED,
        }
    }

    /// Answers a parameter that was asked for with `value`; says whether it could.
    ///
    /// # Safety
    /// `data` points to `size` writable bytes, or is null.
    unsafe fn answer(&mut self, value: Value) -> bool {
        match (value, self.kind) {
            (Value::Number(value), SIGNED | UNSIGNED) => {
                let bytes = value.to_ne_bytes();
                let size = self.size;
                self.returned = size;
                if self.data.is_null() {
                    return true;
                }
                if size != 4 && size != 8 {
                    return false;
                }
                // SAFETY: the caller vouches for `size` bytes; `bytes` has eight, the low ones first on this processor.
                unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.data.cast(), size) };
                true
            }
            (Value::Text(value), TEXT) => {
                self.returned = value.count_bytes();
                if !self.data.is_null() {
                    // SAFETY: for this kind `data` points to a pointer.
                    unsafe { self.data.cast::<*const c_char>().write(value.as_ptr()) };
                }
                true
            }
            _ => false,
        }
    }
}

/// What a parameter is answered with.
#[derive(Clone, Copy)]
pub enum Value {
    /// A number that is not negative and fits 31 bits.
    Number(u64),
    /// Text.
    Text(&'static CStr),
}

/// Answers each parameter of the array that is in `known`, and leaves the others as they are; says whether all went well.
///
/// # Safety
/// `params` is null or an array as OpenSSL defines it, ended with a null key.
pub unsafe fn answer(params: *mut Param, known: &[(&CStr, Value)]) -> c_int {
    let mut next = params;
    // SAFETY: the caller vouches for the array and for what its members point to.
    while let Some(param) = unsafe { next.as_mut() }.filter(|param| !param.key.is_null()) {
        // SAFETY: as above; keys are C strings.
        let key = unsafe { CStr::from_ptr(param.key) };
        for (name, value) in known {
            // SAFETY: as above.
            if *name == key && !unsafe { param.answer(*value) } {
                return 0;
            }
        }
        // SAFETY: this was not the last one.
        next = unsafe { next.add(1) };
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(key: &'static CStr, kind: c_uint, data: *mut c_void, size: usize) -> Param {
        Param {
            data,
            ..Param::described(key, kind, size)
        }
    }

    #[test]
    fn what_is_known_is_answered_in_the_size_asked_for_and_the_rest_left_alone() {
        let (mut small, mut large, mut other) = (7u32, 7u64, 7u32);
        let mut text: *const c_char = ptr::null();
        let mut params = [
            asked(c"strength", UNSIGNED, (&raw mut small).cast(), 4),
            asked(c"strength", UNSIGNED, (&raw mut large).cast(), 8),
            asked(c"unknown", UNSIGNED, (&raw mut other).cast(), 4),
            asked(c"name", TEXT, (&raw mut text).cast(), 0),
            Param::END,
        ];
        let known = [
            (c"strength", Value::Number(256)),
            (c"name", Value::Text(c"me")),
        ];
        // SAFETY: a proper array, whose members point to what they say.
        assert_eq!(unsafe { answer(params.as_mut_ptr(), &known) }, 1);
        assert_eq!((small, large, other), (256, 256, 7));
        assert_eq!(params[0].returned, 4);
        assert_eq!(params[2].returned, UNMODIFIED);
        // SAFETY: just set to a constant.
        assert_eq!(unsafe { CStr::from_ptr(text) }, c"me");
    }

    #[test]
    fn a_number_is_not_answered_as_text_nor_in_a_size_that_does_not_hold_it() {
        let mut place = 7u64;
        for (kind, size) in [(TEXT, 8), (UNSIGNED, 1), (SIGNED, 16)] {
            let mut params = [
                asked(c"strength", kind, (&raw mut place).cast(), size),
                Param::END,
            ];
            // SAFETY: a proper array; nothing is written, as is tested.
            let done = unsafe { answer(params.as_mut_ptr(), &[(c"strength", Value::Number(256))]) };
            assert_eq!((done, place), (0, 7));
        }
        // SAFETY: null is allowed.
        assert_eq!(unsafe { answer(ptr::null_mut(), &[]) }, 1);
    }
}
