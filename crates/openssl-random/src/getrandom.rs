//! `getrandom(2)`, without a C library.

use core::arch::asm;

const SYS_GETRANDOM: isize = 318;
const EINTR: isize = -4;

/// Fills `buffer` from the kernel's generator, waiting for it to be seeded after a cold boot; says whether it could.
pub fn fill(buffer: &mut [u8]) -> bool {
    let mut rest = buffer;
    while !rest.is_empty() {
        match usize::try_from(getrandom(rest)) {
            Ok(got) => match rest.get_mut(got..) {
                Some(left) => rest = left,
                None => return false,
            },
            Err(_) => return false,
        }
    }
    true
}

/// One call; how many bytes the kernel wrote, or a negative error number.
///
/// A call of more than 256 bytes may be cut short by a signal, one of none at all is repeated.
fn getrandom(buffer: &mut [u8]) -> isize {
    loop {
        let result: isize;
        // SAFETY: the kernel writes no more than `buffer.len()` bytes to `buffer`; it clobbers only rcx and r11.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") SYS_GETRANDOM => result,
                in("rdi") buffer.as_mut_ptr(),
                in("rsi") buffer.len(),
                in("rdx") 0,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        if result != EINTR {
            return result;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn fills_all_of_it_and_never_the_same() {
        for size in [0, 1, 32, 256, 257, 1 << 20] {
            let (mut one, mut two) = (vec![0; size], vec![0; size]);
            assert!(fill(&mut one) && fill(&mut two));
            assert!(size < 32 || one != two);
            assert!(
                size < 32 || !one.ends_with(&[0; 16]),
                "its end was left empty"
            );
        }
    }
}
