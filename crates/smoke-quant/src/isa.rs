use crate::kernels::{Kernels, Scalar};

/// A set of processor instructions that there are kernels for.
///
/// [`PackedMatrix::multiply`](crate::PackedMatrix::multiply) takes the [`best`](Self::best) one; the others are for tests
/// and measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// No particular instructions: portable code that the compiler vectorises as far as the target allows.
    Scalar,
    /// aarch64 with NEON: practically every such processor.
    Neon,
    /// x86-64 with AVX2, FMA and F16C: every such processor since 2015.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI besides: Intel's since Ice Lake (servers: Cascade Lake), AMD's since
    /// Zen 4.
    Avx512,
}

impl Isa {
    /// The fastest one that this machine has.
    pub fn best() -> Self {
        Self::available().last().copied().unwrap_or(Self::Scalar)
    }

    /// Those that this machine has, slowest first. The processor is asked once, the answer is kept.
    pub fn available() -> &'static [Self] {
        #[cfg(target_arch = "x86_64")]
        {
            if crate::kernels::Avx512::detect().is_some() {
                return &[Self::Scalar, Self::Avx2, Self::Avx512];
            }
            if crate::kernels::Avx2::detect().is_some() {
                return &[Self::Scalar, Self::Avx2];
            }
        }
        #[cfg(target_arch = "aarch64")]
        if crate::kernels::Neon::detect().is_some() {
            return &[Self::Scalar, Self::Neon];
        }
        &[Self::Scalar]
    }

    /// The kernels.
    ///
    /// # Panics
    /// If the machine does not have these instructions.
    pub(crate) fn kernels(self) -> &'static dyn Kernels {
        match self {
            Self::Scalar => &Scalar,
            Self::Neon => {
                #[cfg(target_arch = "aarch64")]
                if let Some(kernels) = crate::kernels::Neon::detect() {
                    return kernels;
                }
                panic!("this machine has no NEON: ask Isa::available()");
            }
            Self::Avx2 => {
                #[cfg(target_arch = "x86_64")]
                if let Some(kernels) = crate::kernels::Avx2::detect() {
                    return kernels;
                }
                panic!("this machine has no AVX2, FMA and F16C: ask Isa::available()");
            }
            Self::Avx512 => {
                #[cfg(target_arch = "x86_64")]
                if let Some(kernels) = crate::kernels::Avx512::detect() {
                    return kernels;
                }
                panic!("this machine has no AVX-512 F, BW, DQ, VL and VNNI: ask Isa::available()");
            }
        }
    }
}
