// Loss, its slope and the squared errors of patterns, in one pass over intensities and data.
//
// objective/noise.py is the definition of every formula: D = measured, I = modelled counts.

// The number of each formula in score.py.
#define AMPLITUDES 0
#define POISSON 1
#define INTENSITIES 2
#define EXPANSION 3
#define SHIFTED_POISSON 4

// The sums of score.py: N_TOTALS.
struct Sums {
  double loss, errors, free_deviance, free_weight;

  __device__ __forceinline__ void add(const Sums& other) {
    loss += other.loss;
    errors += other.errors;
    free_deviance += other.free_deviance;
    free_weight += other.free_weight;
  }
};

struct Formula {
  int kind;
  real_t dark, shift, gain;

  // I - D log I.
  __device__ __forceinline__ Scored poisson(real_t intensity, real_t data, bool can_have_counts) const {
    const bool never = dark == 0 ? intensity == 0 : !can_have_counts;
    const bool rounding = !never && intensity <= dark;
    const real_t safe = never ? (real_t)1 : (rounding ? dark : intensity);
    return Scored{intensity - data * log(safe), rounding ? (real_t)0 : (intensity - data) / safe};
  }

  // (D - I)^2 / (2 D) where D > 1/2, else I.
  static __device__ __forceinline__ Scored expansion(real_t intensity, real_t data) {
    if (!(data > (real_t)0.5)) return Scored{intensity, 1};
    const real_t difference = data - intensity;
    return Scored{difference * difference / (2 * data), intensity / data - 1};
  }

  __device__ __forceinline__ Scored operator()(real_t intensity, real_t data, bool can_have_counts) const {
    if (kind == AMPLITUDES) return amplitudes(intensity, data, dark);
    if (kind == POISSON) return poisson(intensity, data, can_have_counts);
    if (kind == EXPANSION) return expansion(intensity, data);
    if (kind == INTENSITIES) {
      const real_t difference = intensity - data;
      return Scored{difference * difference, 2 * difference};
    }
    const real_t raised = data + shift, measured = raised < 0 ? (real_t)0 : raised;
    Scored found;
    if (shift == 0) {
      found = poisson(intensity, measured, can_have_counts);
    } else {
      const real_t modelled = intensity + shift;
      found = Scored{modelled - measured * log(modelled), 1 - measured / modelled};
    }
    return Scored{found.loss / gain, found.slope / gain};
  }
};

// slope (pattern, pixels), parts (block, 4); reachable (pixels) may be null; the others as in Values.
// With bounded_slope the slope is that of amplitudes, which is bounded, for counts that are not negative.
extern "C" __global__ void __launch_bounds__(THREADS)
    score(const real_t* intensity, const data_t* data, const int* rows, const real_t* weights, const int* index,
          const real_t* usable, int pixels, int width, int own_weights, real_t multiplier, real_t free_gain,
          real_t free_shift, unsigned int free_below, unsigned int free_start, const bool* reachable, real_t* slope,
          double* parts, int blocks, int kind, int bounded_slope, real_t dark, real_t shift, real_t gain,
          real_t amplitude_dark) {
  __shared__ Sums shared[THREADS];
  const int pattern = blockIdx.x / blocks;
  const int first = blockIdx.x % blocks * (THREADS * PIXELS_PER_THREAD) + threadIdx.x;
  const Formula formula{kind, dark, shift, gain};
  const Hidden hidden{free_below, free_start, free_gain, free_shift, width};
  const Values values{intensity, data, rows, weights, index, usable, pixels, own_weights != 0, multiplier, hidden};
  Sums sums{0, 0, 0, 0};
#pragma unroll
  for (int e = 0; e < PIXELS_PER_THREAD; e++) {
    const int pixel = first + THREADS * e;
    if (pixel >= pixels) break;
    const Value value = values(pattern, pixel);
    Scored found = formula(value.modelled, value.measured, reachable ? reachable[pixel] : true);
    if (bounded_slope) {
      const real_t counts = value.measured < 0 ? (real_t)0 : value.measured;
      found.slope = amplitudes(value.modelled, counts, amplitude_dark).slope;
    }
    if (value.free_weight != 0) {
      sums.free_deviance += (double)(hidden.deviance(value.modelled, value.measured) * value.free_weight);
      sums.free_weight += (double)value.free_weight;
    }
    const real_t error = value.modelled - value.measured;
    slope[(size_t)pattern * pixels + pixel] = found.slope * value.weight;
    sums.loss += (double)(found.loss * value.weight);
    sums.errors += (double)(error * error * value.weight);
  }
  shared[threadIdx.x] = sums;
  block_sum(shared);
  if (threadIdx.x == 0) {
    double* own = parts + 4 * blockIdx.x;
    own[0] = shared[0].loss;
    own[1] = shared[0].errors;
    own[2] = shared[0].free_deviance;
    own[3] = shared[0].free_weight;
  }
}

// totals (4) = the sum of parts (n_parts, 4). One block.
extern "C" __global__ void __launch_bounds__(THREADS) add_parts(const double* parts, double* totals, int n_parts) {
  __shared__ Sums shared[THREADS];
  Sums sums{0, 0, 0, 0};
  for (int part = threadIdx.x; part < n_parts; part += THREADS) {
    const double* of = parts + 4 * part;
    sums.add(Sums{of[0], of[1], of[2], of[3]});
  }
  shared[threadIdx.x] = sums;
  block_sum(shared);
  if (threadIdx.x == 0) {
    totals[0] = shared[0].loss;
    totals[1] = shared[0].errors;
    totals[2] = shared[0].free_deviance;
    totals[3] = shared[0].free_weight;
  }
}
