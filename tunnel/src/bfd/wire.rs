//! The BFD control packet (RFC 5880 §4.1).

use trunkline_packet::headers::read32;

use super::session::Discard;

/// Length of a packet without authentication, bytes.
pub const LEN: usize = 24;

/// The only version.
const VERSION: u8 = 1;

/// State of a session (RFC 5880 §4.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum State {
    /// Held down by the administrator.
    AdminDown = 0,
    /// Nothing heard.
    Down = 1,
    /// The far end is heard, but has not said that it hears us.
    Init = 2,
    /// Both hear each other.
    Up = 3,
}

impl State {
    const fn from_bits(bits: u8) -> State {
        match bits & 3 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        }
    }

    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            State::AdminDown => "admin-down",
            State::Down => "down",
            State::Init => "init",
            State::Up => "up",
        }
    }
}

/// Why a session last left the state Up (RFC 5880 §4.1); five bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Diag(pub u8);

impl Diag {
    /// Nothing happened yet.
    pub const NONE: Diag = Diag(0);
    /// Nothing was heard for a detection time.
    pub const EXPIRED: Diag = Diag(1);
    /// The far end said that it is down.
    pub const NEIGHBOR_DOWN: Diag = Diag(3);
    /// Held down by the administrator.
    pub const ADMIN_DOWN: Diag = Diag(7);

    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "none",
            1 => "detection-time-expired",
            2 => "echo-failed",
            3 => "neighbor-down",
            4 => "forwarding-plane-reset",
            5 => "path-down",
            6 => "concatenated-path-down",
            7 => "admin-down",
            8 => "reverse-concatenated-path-down",
            _ => "reserved",
        }
    }
}

/// A control packet. Intervals are microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlPacket {
    /// Why the sender last went down.
    pub diag: Diag,
    /// The sender's state.
    pub state: State,
    /// P: an answer with F is wanted.
    pub poll: bool,
    /// F: the answer.
    pub fin: bool,
    /// C: the sender's BFD does not share fate with its control plane.
    pub control_plane_independent: bool,
    /// D: the sender wants no periodic packets while both are up.
    pub demand: bool,
    /// How many packets in a row may be lost; not 0.
    pub detect_mult: u8,
    /// The sender's name for the session; not 0.
    pub my_discr: u32,
    /// Our name for it, as far as the sender knows; else 0.
    pub your_discr: u32,
    /// The sender would like to send this often.
    pub desired_min_tx: u32,
    /// The sender can receive this often; 0 for never.
    pub required_min_rx: u32,
    /// For echo packets, which are not supported.
    pub required_min_echo_rx: u32,
}

impl ControlPacket {
    /// Reads a UDP payload, with the checks of RFC 5880 §6.8.6 that need no session.
    ///
    /// # Errors
    /// [`Discard`] names the first check that fails.
    pub fn parse(bytes: &[u8]) -> Result<ControlPacket, Discard> {
        let Some(&[first, flags, detect_mult, length]) = bytes.first_chunk() else {
            return Err(Discard::Length);
        };
        if first >> 5 != VERSION {
            return Err(Discard::Version);
        }
        let bit = |bit: u8| flags & bit != 0;
        let (auth, multipoint) = (bit(0x04), bit(0x01));
        let least = if auth { LEN + 2 } else { LEN };
        if usize::from(length) < least || usize::from(length) > bytes.len() {
            return Err(Discard::Length);
        }
        if detect_mult == 0 {
            return Err(Discard::DetectMult);
        }
        if multipoint {
            return Err(Discard::Multipoint);
        }
        let word = |at: usize| read32(bytes, at).ok_or(Discard::Length);
        let packet = ControlPacket {
            diag: Diag(first & 0x1f),
            state: State::from_bits(flags >> 6),
            poll: bit(0x20),
            fin: bit(0x10),
            control_plane_independent: bit(0x08),
            demand: bit(0x02),
            detect_mult,
            my_discr: word(4)?,
            your_discr: word(8)?,
            desired_min_tx: word(12)?,
            required_min_rx: word(16)?,
            required_min_echo_rx: word(20)?,
        };
        if packet.my_discr == 0 {
            return Err(Discard::MyDiscriminator);
        }
        if packet.your_discr == 0 && !matches!(packet.state, State::Down | State::AdminDown) {
            return Err(Discard::State);
        }
        // Last of the checks, as in the RFC; it comes before anything is taken from the packet.
        if auth { Err(Discard::Authentication) } else { Ok(packet) }
    }

    /// The packet as bytes.
    pub fn to_bytes(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        let bit = |on: bool, bit: u8| if on { bit } else { 0 };
        out[0] = VERSION << 5 | self.diag.0 & 0x1f;
        out[1] = (self.state as u8) << 6
            | bit(self.poll, 0x20)
            | bit(self.fin, 0x10)
            | bit(self.control_plane_independent, 0x08)
            | bit(self.demand, 0x02);
        out[2] = self.detect_mult;
        out[3] = LEN as u8;
        let words = [
            self.my_discr,
            self.your_discr,
            self.desired_min_tx,
            self.required_min_rx,
            self.required_min_echo_rx,
        ];
        for (field, word) in out[4..].as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *field = word.to_be_bytes();
        }
        out
    }
}
