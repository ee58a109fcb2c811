//! Small programs over the bytes of a frame, which the kernel runs: written once, in steps that both classic
//! BPF (socket filters, for which no right is needed) and eBPF (tcx) have.

use libc::sock_filter;

/// Where to go on. Only forward, as classic BPF demands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// How A compares with a number, unsigned.
#[derive(Clone, Copy)]
pub(super) enum Cond {
    Eq,
    Gt,
    Ge,
    /// Any of these bits is set in A.
    Bits,
}

/// One step, for a machine of two registers (A and X), one cell of memory (M) and the frame. A load beyond
/// the frame's end ends the program with "no".
#[derive(Clone, Copy)]
pub(super) enum Op {
    /// A = 1 if the kernel has taken a VLAN tag off, else 0.
    Tagged,
    /// A = so many bytes of the frame (1, 2 or 4) at an offset, big-endian.
    Load(u8, u32),
    /// The same at X + offset.
    LoadX(u8, u32),
    /// A = A and number
    And(u32),
    /// A = A shifted left
    Shl(u32),
    /// A = A + number
    Add(u32),
    /// A = A + X
    AddX,
    /// X = A
    ToX,
    /// A = X
    FromX,
    /// M = A
    Save,
    /// A = M
    Restore,
    If(Cond, u32, Label),
    Goto(Label),
    Here(Label),
    Verdict(bool),
}

/// A program in the making.
#[derive(Default)]
pub(super) struct Program {
    ops: Vec<Op>,
    labels: usize,
}

/// An eBPF instruction, native byte order: opcode, registers, offset (16 bits), immediate (32 bits).
pub(super) type Instruction = [u8; 8];

// Operation codes. The same in both machines, unless said otherwise.
const LD_ABS: u8 = 0x20;
const LD_IND: u8 = 0x40;
const AND_K: u8 = 0x54;
const SHL_K: u8 = 0x64;
const ADD_K: u8 = 0x04;
const ADD_X: u8 = 0x0c;
const JA: u8 = 0x05;
/// The class of jumps that compare 32 bits: JMP in classic BPF, JMP32 in eBPF.
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const CLASSIC_TAX: u8 = 0x07;
const CLASSIC_TXA: u8 = 0x87;
const CLASSIC_ST: u8 = 0x02;
const CLASSIC_LD_M: u8 = 0x60;
const CLASSIC_RET: u8 = 0x06;
const MOV32_X: u8 = 0xbc;
const MOV64_X: u8 = 0xbf;
const MOV64_K: u8 = 0xb7;
const LDX_MEM_W: u8 = 0x61;
const EXIT: u8 = 0x95;

/// SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT: the load that tells of a tag.
const CLASSIC_TAGGED: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG_PRESENT) as u32;
/// `vlan_present` in `struct __sk_buff`.
const SKB_TAGGED: i16 = 20;

/// Registers of eBPF: A is what loads answer in, the frame must be in the sixth, others survive loads.
const A: u8 = 0;
const CONTEXT: u8 = 6;
const X: u8 = 7;
const M: u8 = 8;

impl Cond {
    const fn code(self) -> u8 {
        match self {
            Cond::Eq => 0x10,
            Cond::Gt => 0x20,
            Cond::Ge => 0x30,
            Cond::Bits => 0x40,
        }
    }
}

const fn size(bytes: u8) -> u8 {
    match bytes {
        1 => 0x10,
        2 => 0x08,
        _ => 0x00,
    }
}

impl Program {
    pub(super) fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels - 1)
    }

    pub(super) fn add(&mut self, ops: impl IntoIterator<Item = Op>) {
        self.ops.extend(ops);
    }

    /// The steps that can be come to. The kernel's verifier takes no others.
    fn live(&self) -> Vec<Op> {
        let mut wanted = vec![false; self.labels];
        let mut live = true;
        let reached = |op: &&Op| {
            // Jumps only go forward, so all that lead to a label have been seen.
            if let Op::Here(label) = op {
                live |= wanted[label.0];
            }
            let this = live;
            match op {
                Op::If(.., label) if live => wanted[label.0] = true,
                Op::Goto(label) if live => {
                    wanted[label.0] = true;
                    live = false;
                }
                Op::Verdict(_) => live = false,
                _ => {}
            }
            this
        };
        self.ops.iter().filter(reached).copied().collect()
    }

    /// Where each label is, if every step takes as many instructions as `len` says.
    fn places(&self, ops: &[Op], len: impl Fn(&Op) -> usize) -> Vec<usize> {
        let mut places = vec![usize::MAX; self.labels];
        let mut at = 0;
        for op in ops {
            match op {
                Op::Here(label) => places[label.0] = at,
                op => at += len(op),
            }
        }
        places
    }

    /// As a socket filter, which lets a frame in or not.
    pub(super) fn classic(&self) -> Vec<sock_filter> {
        // Conditional jumps reach 255 instructions, so each jumps over an unconditional one instead.
        let ops = self.live();
        let places = self.places(&ops, |op| if matches!(op, Op::If(..)) { 2 } else { 1 });
        let mut code: Vec<sock_filter> = Vec::new();
        let plain = |code: u8, k: u32| sock_filter { code: code.into(), jt: 0, jf: 0, k };
        for op in &ops {
            let goto = |label: &Label, at: usize| plain(JA, (places[label.0] - at - 1) as u32);
            match op {
                Op::Tagged => code.push(plain(LD_ABS, CLASSIC_TAGGED)),
                Op::Load(bytes, at) => code.push(plain(LD_ABS | size(*bytes), *at)),
                Op::LoadX(bytes, at) => code.push(plain(LD_IND | size(*bytes), *at)),
                Op::And(k) => code.push(plain(AND_K, *k)),
                Op::Shl(k) => code.push(plain(SHL_K, *k)),
                Op::Add(k) => code.push(plain(ADD_K, *k)),
                Op::AddX => code.push(plain(ADD_X, 0)),
                Op::ToX => code.push(plain(CLASSIC_TAX, 0)),
                Op::FromX => code.push(plain(CLASSIC_TXA, 0)),
                Op::Save => code.push(plain(CLASSIC_ST, 0)),
                Op::Restore => code.push(plain(CLASSIC_LD_M, 0)),
                Op::If(cond, k, label) => {
                    code.push(sock_filter { jf: 1, ..plain(JMP | cond.code(), *k) });
                    code.push(goto(label, code.len()));
                }
                Op::Goto(label) => code.push(goto(label, code.len())),
                Op::Here(_) => {}
                Op::Verdict(yes) => code.push(plain(CLASSIC_RET, if *yes { u32::MAX } else { 0 })),
            }
        }
        code
    }

    /// As a program of type SCHED_CLS that returns one number or the other.
    pub(super) fn extended(&self, yes: i32, no: i32) -> Vec<Instruction> {
        let ops = self.live();
        let places = self.places(&ops, |op| if matches!(op, Op::Verdict(_)) { 2 } else { 1 });
        let make = |code: u8, dst: u8, src: u8, offset: i16, k: u32| {
            let (o, k) = (offset.to_ne_bytes(), k.to_ne_bytes());
            // The kernel's bit fields: the destination is in the low half on little-endian machines.
            let registers = if cfg!(target_endian = "little") { dst | src << 4 } else { dst << 4 | src };
            [code, registers, o[0], o[1], k[0], k[1], k[2], k[3]]
        };
        // The verifier wants registers set before they are read.
        let prologue =
            [make(MOV64_X, CONTEXT, 1, 0, 0), make(MOV64_K, X, 0, 0, 0), make(MOV64_K, M, 0, 0, 0)];
        let mut code = prologue.to_vec();
        for op in &ops {
            let at = code.len() - prologue.len();
            let over = |label: &Label| (places[label.0] - at - 1) as i16;
            match op {
                Op::Tagged => code.push(make(LDX_MEM_W, A, CONTEXT, SKB_TAGGED, 0)),
                Op::Load(bytes, at) => code.push(make(LD_ABS | size(*bytes), 0, 0, 0, *at)),
                Op::LoadX(bytes, at) => code.push(make(LD_IND | size(*bytes), 0, X, 0, *at)),
                Op::And(k) => code.push(make(AND_K, A, 0, 0, *k)),
                Op::Shl(k) => code.push(make(SHL_K, A, 0, 0, *k)),
                Op::Add(k) => code.push(make(ADD_K, A, 0, 0, *k)),
                Op::AddX => code.push(make(ADD_X, A, X, 0, 0)),
                Op::ToX => code.push(make(MOV32_X, X, A, 0, 0)),
                Op::FromX => code.push(make(MOV32_X, A, X, 0, 0)),
                Op::Save => code.push(make(MOV32_X, M, A, 0, 0)),
                Op::Restore => code.push(make(MOV32_X, A, M, 0, 0)),
                Op::If(cond, k, label) => code.push(make(JMP32 | cond.code(), A, 0, over(label), *k)),
                Op::Goto(label) => code.push(make(JA, 0, 0, over(label), 0)),
                Op::Here(_) => {}
                Op::Verdict(verdict) => {
                    code.push(make(MOV64_K, A, 0, 0, (if *verdict { yes } else { no }) as u32));
                    code.push(make(EXIT, 0, 0, 0, 0));
                }
            }
        }
        code
    }
}
