use std::time::Duration;

/// Which uses that are not certain are read ahead. Certain ones always are, as far as the read-ahead goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speculation {
    /// None.
    Off,
    /// Those that are at least as likely as not, whatever else the disk has to do.
    #[default]
    Likely,
    /// Those whose read is expected to save more time than it costs, and none where measuring shows that callers wait as
    /// long with them as without.
    Gated,
}

impl Speculation {
    /// A use less likely than this is not looked at.
    pub(crate) fn least_probability(self) -> f32 {
        match self {
            Self::Off => 1.0,
            Self::Likely => 0.5,
            Self::Gated => 0.05,
        }
    }
}

/// A read that may be begun before anybody asks for it. Times are in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// How likely the unit will be used.
    pub(crate) probability: f32,
    /// Until then.
    pub(crate) until_use: f64,
    /// What the device needs for what it has to read already.
    pub(crate) backlog: f64,
    /// What it needs for this.
    pub(crate) read: f64,
}

impl Offer {
    /// Whether expected use × spare device time pays: what of the read fits into the time that the device has to spare is
    /// saved if the unit is used; what does not fit is waited for by the next demand if it is not.
    pub(crate) fn pays(&self) -> bool {
        let probability = f64::from(self.probability);
        let spare = (self.until_use - self.backlog).max(0.0);
        let hidden = self.read.min(spare);
        probability * hidden > (1.0 - probability) * (self.read - hidden)
    }
}

/// Opens and closes by turns and measures how long callers wait, to find out whether speculation helps at all.
///
/// A trial has eight phases, closed and open in the order of ABBA ABBA, so that a drift weighs on both alike. If callers
/// did not wait less with the gate open it stays closed for a time that doubles with each such trial; else it is open
/// until the next one.
#[derive(Debug)]
pub(crate) struct Gate {
    state: State,
    /// Trials lost one after another.
    lost: u32,
}

#[derive(Debug)]
enum State {
    Trial { groups: u32, begun_at: Duration, waited: [Duration; 2] },
    Settled { open: bool, groups_left: u32 },
}

/// Groups of units in a phase: the experts of some tokens' layers.
const PHASE: u32 = 32;
const PHASES: [bool; 8] = [false, true, true, false, false, true, true, false];
/// Before the first trial, in which memory fills.
const WARM_UP: u32 = 96;
/// Between trials, where the last was won, or the first one lost.
const REST: u32 = 2048;

impl Default for Gate {
    fn default() -> Self {
        Self { state: State::Settled { open: false, groups_left: WARM_UP }, lost: 0 }
    }
}

impl Gate {
    /// Whether reads are let through.
    pub(crate) fn is_open(&self) -> bool {
        match self.state {
            State::Trial { groups, .. } => PHASES[(groups / PHASE) as usize],
            State::Settled { open, .. } => open,
        }
    }

    /// To be called after each group of units; `waited` is how long callers have waited in all. True where a trial has
    /// just been lost.
    pub(crate) fn group_ended(&mut self, waited: Duration) -> bool {
        match &mut self.state {
            State::Settled { groups_left: 1.., .. } => {
                if let State::Settled { groups_left, .. } = &mut self.state {
                    *groups_left -= 1;
                }
                false
            }
            State::Settled { .. } => {
                self.state = State::Trial { groups: 0, begun_at: waited, waited: Default::default() };
                false
            }
            State::Trial { groups, begun_at, waited: by_phase } => {
                let open = PHASES[(*groups / PHASE) as usize];
                by_phase[usize::from(open)] += waited.saturating_sub(*begun_at);
                *begun_at = waited;
                *groups += 1;
                if *groups < PHASE * PHASES.len() as u32 {
                    return false;
                }
                let [closed, open] = *by_phase;
                // A fiftieth is noise.
                let won = open.as_secs_f64() < closed.as_secs_f64() * 0.98;
                self.lost = if won { 0 } else { self.lost + 1 };
                let groups_left = REST << self.lost.saturating_sub(1).min(8);
                self.state = State::Settled { open: won, groups_left };
                !won
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_pays_where_the_device_has_time_or_the_use_is_likely() {
        for (probability, until_use, backlog, read, pays) in [
            (0.1, 2.0, 0.0, 1.0, true),
            (0.9, 0.5, 0.0, 1.0, true),
            (0.4, 0.5, 0.0, 1.0, false),
            (0.9, 2.0, 2.0, 1.0, false),
            (0.5, 2.0, 1.2, 1.0, true),
            (0.1, 2.0, 1.2, 1.0, false),
            (0.9, 0.0, 0.0, 1.0, false),
        ] {
            let offer = Offer { probability, until_use, backlog, read };
            assert_eq!(offer.pays(), pays, "{offer:?}");
        }
    }

    /// Groups until the first trial has ended, when callers wait so long with the gate closed and open.
    fn tried(gate: &mut Gate, waited: &mut Duration, closed: u64, open: u64) -> (u32, bool) {
        let mut groups = 0;
        loop {
            *waited += Duration::from_millis(if gate.is_open() { open } else { closed });
            groups += 1;
            let was_trial = matches!(gate.state, State::Trial { .. });
            let lost = gate.group_ended(*waited);
            if was_trial && matches!(gate.state, State::Settled { .. }) {
                return (groups, lost);
            }
        }
    }

    #[test]
    fn it_stays_open_where_callers_wait_less_and_closes_where_they_do_not() {
        let (mut gate, mut waited) = (Gate::default(), Duration::ZERO);
        assert!(!gate.is_open());
        let trial = PHASE * 8 + 1;
        assert_eq!(tried(&mut gate, &mut waited, 10, 5), (WARM_UP + trial, false));
        assert!(gate.is_open());
        assert_eq!(tried(&mut gate, &mut waited, 10, 10), (REST + trial, true));
        assert!(!gate.is_open());
        assert_eq!(tried(&mut gate, &mut waited, 10, 12), (REST + trial, true));
        assert_eq!(tried(&mut gate, &mut waited, 10, 9), (2 * REST + trial, false), "the pause doubles");
        assert!(gate.is_open());
    }
}
