//! System calls that fail when and how a test wants: seccomp(2) with a filter of our own.
//!
//! A filter cannot be taken back, so a test has one for as long as its process lives.

use std::io;

/// A system call, or those calls of it whose argument is so.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) number: libc::c_long,
    pub(crate) only: Only,
    /// What it fails with.
    pub(crate) error: i32,
}

/// Which calls are meant, by the low half of the argument at an index.
#[derive(Clone, Copy)]
pub(crate) enum Only {
    All,
    /// One of these bits is set.
    Bits(u32, u32),
    Is(u32, u32),
}

impl Call {
    pub(crate) const fn all(number: libc::c_long, error: i32) -> Self {
        Self { number, only: Only::All, error }
    }
}

// What BPF reads: struct seccomp_data of linux/seccomp.h, in which the number is at 0.
const IP: u32 = 8;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const SET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

fn op(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn rule(call: &Call, action: u32) -> Vec<libc::sock_filter> {
    let test = match call.only {
        Only::All => Vec::new(),
        Only::Bits(index, bits) => {
            vec![op(LOAD, ARGUMENTS + 8 * index, 0, 0), op(SET, bits, 0, 1)]
        }
        Only::Is(index, value) => {
            vec![op(LOAD, ARGUMENTS + 8 * index, 0, 0), op(EQUAL, value, 0, 1)]
        }
    };
    let mut rule = vec![op(LOAD, 0, 0, 0), op(EQUAL, call.number as u32, 0, test.len() as u8 + 1)];
    rule.extend(test);
    rule.push(op(RETURN, action, 0, 0));
    rule
}

fn install(mut program: Vec<libc::sock_filter>) -> io::Result<()> {
    program.push(op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the program and what it points to are locals, which the kernel copies.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// From now on these calls fail, in this process and all that come from it.
pub(crate) fn refuse(calls: &[Call]) -> io::Result<()> {
    let action = |error: i32| libc::SECCOMP_RET_ERRNO | error as u32;
    install(calls.iter().flat_map(|call| rule(call, action(call.error))).collect())
}

#[cfg(target_arch = "x86_64")]
pub(crate) use counted::{count_calls, fail_at, has_failed};

/// Calls that are counted, of which one fails. The filter hands them to a signal handler, which makes the call from
/// a place that the filter lets pass.
#[cfg(target_arch = "x86_64")]
mod counted {
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicI64;
    use std::sync::atomic::Ordering::SeqCst;

    use super::{Call, EQUAL, IP, LOAD, Only, RETURN, install, op, rule};

    std::arch::global_asm!(
        ".global multiprocess_test_syscall",
        ".global multiprocess_test_syscall_end",
        "multiprocess_test_syscall:",
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "mov rdx, rcx",
        "mov r10, r8",
        "mov r8, r9",
        "mov r9, [rsp + 8]",
        "syscall",
        "multiprocess_test_syscall_end:",
        "ret",
    );

    unsafe extern "C" {
        fn multiprocess_test_syscall(number: i64, arguments: ...) -> i64;
        safe static multiprocess_test_syscall_end: u8;
    }

    static CALLS: OnceLock<Vec<Call>> = OnceLock::new();
    /// How many calls there are until the one that fails; it has when this is below zero.
    static UNTIL: AtomicI64 = AtomicI64::new(i64::MAX);

    /// Counts these calls from now on.
    pub(crate) fn count_calls(calls: Vec<Call>) -> io::Result<()> {
        let mut program = Vec::new();
        let passes = (&raw const multiprocess_test_syscall_end) as u64;
        program.push(op(LOAD, IP, 0, 0));
        program.push(op(EQUAL, passes as u32, 0, 3));
        program.push(op(LOAD, IP + 4, 0, 0));
        program.push(op(EQUAL, (passes >> 32) as u32, 0, 1));
        program.push(op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
        program.extend(calls.iter().flat_map(|call| rule(call, libc::SECCOMP_RET_TRAP)));
        CALLS.set(calls).map_err(|_| io::Error::other("calls are counted already"))?;
        // SAFETY: all zeros is an action; its fields follow.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_call as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        // SAFETY: the handler does what a handler may, and the action is a local.
        if unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        install(program)
    }

    /// The `n`-th of the counted calls from now on fails, from 1; none for 0.
    pub(crate) fn fail_at(n: i64) {
        UNTIL.store(if n == 0 { i64::MAX } else { n }, SeqCst);
    }

    /// Whether the call that was to fail has.
    pub(crate) fn has_failed() -> bool {
        UNTIL.load(SeqCst) <= 0
    }

    extern "C" fn on_call(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        /// The part of siginfo that SIGSYS has.
        #[repr(C)]
        struct Trapped {
            numbers: [i32; 4],
            address: *const u8,
            number: i32,
        }
        // SAFETY: what the kernel gives a handler of SIGSYS (sigaction(2)).
        let number = unsafe { (*info.cast::<Trapped>()).number };
        // SAFETY: the third argument of a handler that takes three.
        let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        let argument = |register: i32| registers[register as usize];
        let arguments = [
            libc::REG_RDI,
            libc::REG_RSI,
            libc::REG_RDX,
            libc::REG_R10,
            libc::REG_R8,
            libc::REG_R9,
        ]
        .map(argument);
        let meant = |call: &&Call| {
            let low = |index: u32| arguments[index as usize] as u32;
            call.number == i64::from(number)
                && match call.only {
                    Only::All => true,
                    Only::Bits(index, bits) => low(index) & bits != 0,
                    Only::Is(index, value) => low(index) == value,
                }
        };
        let call = CALLS.get().into_iter().flatten().find(meant);
        let result = match call {
            Some(call) if UNTIL.fetch_sub(1, SeqCst) == 1 => -i64::from(call.error),
            _ => {
                let [a, b, c, d, e, f] = arguments;
                // SAFETY: the call that the program makes, with its arguments.
                unsafe { multiprocess_test_syscall(number.into(), a, b, c, d, e, f) }
            }
        };
        registers[libc::REG_RAX as usize] = result;
    }
}
