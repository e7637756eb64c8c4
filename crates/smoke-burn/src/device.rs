//! Where tensors are computed.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{Device, Tensor};

/// The kinds of devices that Smoke runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// The processor, with weights used in place in the cache.
    #[default]
    Cpu,
    /// Any GPU that wgpu reaches through Vulkan, Metal or DirectX.
    Wgpu,
    /// An NVIDIA GPU.
    Cuda,
}

impl DeviceKind {
    /// Every kind, in the order of [`Default`].
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Wgpu, Self::Cuda];

    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Cuda => "cuda",
        }
    }

    /// Opens the device and runs one small operation on it, so that an absent GPU is found now and not in the middle of
    /// a forward pass.
    ///
    /// # Errors
    /// [`DeviceError`] if this build lacks the backend or no such device answers.
    pub fn open(self) -> Result<Device, DeviceError> {
        let open: fn() -> Device = match self {
            #[cfg(feature = "flex")]
            Self::Cpu => Device::flex,
            #[cfg(feature = "wgpu")]
            Self::Wgpu => || Device::wgpu(Default::default()),
            #[cfg(feature = "cuda")]
            Self::Cuda => || Device::cuda(0),
            #[allow(unreachable_patterns, reason = "with every feature on, nothing is missing")]
            _ => return Err(DeviceError::NotBuilt { kind: self }),
        };
        probe(open).map_err(|reason| DeviceError::Absent { kind: self, reason })
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DeviceKind {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| DeviceError::Unknown { text: text.to_owned() })
    }
}

/// Why a device cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No such kind of device.
    #[error("`{text}` is not a device: choose cpu, wgpu or cuda")]
    Unknown {
        /// What was asked for.
        text: String,
    },
    /// The program was built without the backend.
    #[error("this build has no {kind} backend: build with `--features {kind}`, or choose another device")]
    NotBuilt {
        /// What was asked for.
        kind: DeviceKind,
    },
    /// The device does not answer.
    #[error("no {kind} device answers ({reason}): install its driver, or choose the device cpu")]
    Absent {
        /// What was asked for.
        kind: DeviceKind,
        /// What the driver or the backend said.
        reason: String,
    },
}

/// Runs a tiny sum on the device. Backends panic where no device answers, so it runs on a thread of its own, whose panic
/// is reported as an error and not printed.
fn probe(open: impl FnOnce() -> Device + Send + 'static) -> Result<Device, String> {
    const PROBE: &str = "smoke-device-probe";
    static QUIET: std::sync::Once = std::sync::Once::new();
    QUIET.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name() != Some(PROBE) {
                report(panic);
            }
        }));
    });
    let probing = std::thread::Builder::new().name(PROBE.to_owned()).spawn(|| {
        let device = open();
        let sum = Tensor::<1>::ones([4], &device).sum().into_data();
        (device, sum)
    });
    let (device, sum) = probing.map_err(|error| error.to_string())?.join().map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the backend panicked");
        text.lines().next().unwrap_or_default().to_owned()
    })?;
    match sum.try_to_vec::<f32>() {
        Ok(values) if values == [4.0] => Ok(device),
        other => Err(format!("1 + 1 + 1 + 1 gave {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for kind in DeviceKind::ALL {
            assert_eq!(kind.to_string().parse::<DeviceKind>().unwrap(), kind);
        }
        assert!("tpu".parse::<DeviceKind>().unwrap_err().to_string().contains("cpu, wgpu or cuda"));
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_missing_backend_is_an_error() {
        assert!(matches!(DeviceKind::Cuda.open(), Err(DeviceError::NotBuilt { kind: DeviceKind::Cuda })));
    }

    #[test]
    fn a_device_that_panics_is_absent() {
        let error = probe(|| panic!("no adapter found")).unwrap_err();
        assert_eq!(error, "no adapter found");
    }
}
