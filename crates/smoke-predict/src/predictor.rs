use smoke_core::{Access, ExpectedUse, Forecast, NoForecast};

/// A forecast that learns from the accesses it is told of: the write half of prediction.
///
/// # Contract
///
/// Whoever runs the model calls [`observe`](Self::observe) once per access, in order; everybody else only reads, through
/// `&dyn Forecast`. Calls come one at a time, with the owner's lock held, so they should be quick: a question costs
/// microseconds and allocates nothing but what `out` needs, for eviction asks once per resident unit.
///
/// Any sequence of accesses is legal, whatever was predicted: units never heard of, the same unit twice, a pass cut
/// short. Steps are for those who want them; they may repeat. Being wrong costs speed, never correctness.
///
/// Answers are relative to the latest observed access: distance 1 is the access that follows it. They obey the rules of
/// the `conformance` module, which any implementation can be run against.
pub trait AccessPredictor: Forecast + Send {
    /// Takes note that `access` happened.
    fn observe(&mut self, access: Access);

    /// Takes note of what somebody outside expects, such as a router that has scored the experts of a layer. Distances
    /// are relative to the latest observed access. May be ignored, which is the default.
    fn hint(&mut self, expected: &[ExpectedUse]) {
        let _ = expected;
    }
}

impl<P: AccessPredictor + ?Sized> AccessPredictor for Box<P> {
    fn observe(&mut self, access: Access) {
        (**self).observe(access);
    }
    fn hint(&mut self, expected: &[ExpectedUse]) {
        (**self).hint(expected);
    }
}

/// Learns nothing and predicts nothing: demand loading only.
impl AccessPredictor for NoForecast {
    fn observe(&mut self, _access: Access) {}
}

#[cfg(test)]
mod tests {
    use smoke_core::{NextUse, Step, UnitId};

    use super::*;
    use crate::CyclicPredictor;

    #[test]
    fn access_predictor_is_object_safe_and_upcasts() {
        let mut boxed: Box<dyn AccessPredictor> = Box::new(CyclicPredictor::new(vec![UnitId(0), UnitId(1)]));
        boxed.observe(Access { step: Step(0), unit: UnitId(0) });
        let forecast: &dyn Forecast = &*boxed;
        assert_eq!(forecast.next_use(UnitId(1)), NextUse::In(1));
    }

    #[test]
    fn a_box_forwards_hints() {
        #[derive(Debug, Default)]
        struct Hinted(usize);
        impl Forecast for Hinted {
            fn next_use(&self, _unit: UnitId) -> NextUse {
                NextUse::Unknown
            }
            fn upcoming(&self, _horizon: u64, _out: &mut Vec<ExpectedUse>) {}
        }
        impl AccessPredictor for Hinted {
            fn observe(&mut self, _access: Access) {}
            fn hint(&mut self, expected: &[ExpectedUse]) {
                self.0 += expected.len();
            }
        }
        fn tell(predictor: &mut impl AccessPredictor) {
            predictor.hint(&[ExpectedUse { unit: UnitId(0), distance: 1, probability: 1.0 }]);
        }
        let mut hinted = Box::new(Hinted::default());
        tell(&mut hinted);
        assert_eq!(hinted.0, 1);
    }
}
