// Loss, its slope and the squared errors of patterns, in one pass over intensities and data.
//
// objective/noise.py is the definition of every formula: D = measured, I = modelled counts. Data keep the detector's own
// type, DATA (the name of a NumPy type). A block has some pixels of one pattern, and leaves their sums for add_parts;
// the order of all sums is fixed.
#ifndef DATA
#define DATA uint16
#endif
#define TYPE_uint8 unsigned char
#define TYPE_int8 signed char
#define TYPE_uint16 unsigned short
#define TYPE_int16 short
#define TYPE_uint32 unsigned int
#define TYPE_int32 int
#define TYPE_float32 float
#define TYPE_float64 double
#define TYPE_OF(name) TYPE_##name
#define TYPE(name) TYPE_OF(name)
typedef TYPE(DATA) data_t;

#define THREADS 256
#define PIXELS_PER_THREAD 4

// The number of each formula in score.py.
#define AMPLITUDES 0
#define POISSON 1
#define INTENSITIES 2
#define EXPANSION 3
#define SHIFTED_POISSON 4

struct Scored {
  real_t loss, slope;
};

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

// The factors of objective/free_pixels.py.
#define PATTERN_FACTOR 0x6A09E667u
#define BLOCK_FACTOR 0xBB67AE85u
#define FIRST_FACTOR 0x510E527Fu
#define SECOND_FACTOR 0x1F83D9ABu
#define SMALLEST ((real_t)1e-8)

// Blocks of 2 x 2 pixels that are not fitted, as in objective/free_pixels.py.
struct Hidden {
  unsigned int below, start;
  real_t gain, shift;
  int width;

  __device__ __forceinline__ bool is_free(int pattern, int pixel) const {
    const unsigned int across = (width + 1) / 2;
    const unsigned int block = (unsigned int)(pixel / width / 2) * across + (unsigned int)(pixel % width / 2);
    unsigned int value = ((unsigned int)pattern * PATTERN_FACTOR + start) ^ (block * BLOCK_FACTOR);
    value ^= value >> 16;
    value *= FIRST_FACTOR;
    value ^= value >> 15;
    value *= SECOND_FACTOR;
    value ^= value >> 16;
    return value < below;
  }

  __device__ __forceinline__ real_t electrons(real_t value) const {
    const real_t raised = value + shift;
    return (raised < 0 ? (real_t)0 : raised) / gain;
  }

  // 2 (I - D + D log(D/I)), in electrons.
  __device__ __forceinline__ real_t deviance(real_t intensity, real_t data) const {
    const real_t found = electrons(intensity), counts = electrons(data);
    const real_t modelled = found < SMALLEST ? SMALLEST : found;
    const real_t logarithm = log(counts < SMALLEST ? SMALLEST : counts) - log(modelled);
    return 2 * (logarithm * counts + modelled - counts);
  }
};

struct Formula {
  int kind;
  real_t dark, shift, gain;

  // (sqrt I - sqrt D)^2; rounding has no slope.
  static __device__ __forceinline__ Scored amplitudes(real_t intensity, real_t data, real_t dark) {
    const real_t amplitude = sqrt(intensity);
    const real_t difference = amplitude - sqrt(data);
    return Scored{difference * difference, intensity <= dark ? (real_t)0 : difference / amplitude};
  }

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

// Sum over the threads of a block, in thread 0, always in the same order.
__device__ __forceinline__ Sums block_sum(Sums value, Sums* shared) {
  shared[threadIdx.x] = value;
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < half) {
      shared[threadIdx.x].add(shared[threadIdx.x + half]);
    }
  }
  return shared[0];  // of use to thread 0 only
}

// intensity, slope (pattern, pixels). data (rows, pixels): pattern j has row rows[j], or row j if that is null.
// weights (pixels), or with own_weights (pattern, pixels); reachable (pixels); both may be null. parts (block, 4).
// index (pattern): numbers of the patterns, by which pixels are free (none with free_below 0); their sums are over those
// that are usable (pixels), all if that is null.
// With bounded_slope the slope is that of amplitudes, which is bounded, for counts that are not negative.
extern "C" __global__ void __launch_bounds__(THREADS)
    score(const real_t* intensity, const data_t* data, const int* rows, const real_t* weights, const bool* reachable,
          const int* index, const real_t* usable, real_t* slope, double* parts, int pixels, int width, int blocks, int own_weights, int kind,
          int bounded_slope, real_t multiplier, real_t dark, real_t shift, real_t gain, real_t amplitude_dark,
          real_t free_gain, real_t free_shift, unsigned int free_below, unsigned int free_start) {
  __shared__ Sums shared[THREADS];
  const int pattern = blockIdx.x / blocks;
  const int first = blockIdx.x % blocks * (THREADS * PIXELS_PER_THREAD) + threadIdx.x;
  const size_t start = (size_t)pattern * pixels, row = rows ? rows[pattern] : pattern;
  const Formula formula{kind, dark, shift, gain};
  const Hidden hidden{free_below, free_start, free_gain, free_shift, width};
  Sums sums{0, 0, 0, 0};
#pragma unroll
  for (int e = 0; e < PIXELS_PER_THREAD; e++) {
    const int pixel = first + THREADS * e;
    if (pixel >= pixels) break;
    const real_t modelled = intensity[start + pixel];
    const real_t measured = (real_t)data[row * pixels + pixel] * multiplier;
    Scored found = formula(modelled, measured, reachable ? reachable[pixel] : true);
    if (bounded_slope)
      found.slope = Formula::amplitudes(modelled, measured < 0 ? (real_t)0 : measured, amplitude_dark).slope;
    real_t weight = weights ? weights[own_weights ? start + pixel : pixel] : (real_t)1;
    if (free_below && hidden.is_free(index[pattern], pixel)) {
      weight *= usable ? usable[pixel] : (real_t)1;
      sums.free_deviance += (double)(hidden.deviance(modelled, measured) * weight);
      sums.free_weight += (double)weight;
      weight = 0;
    }
    const real_t error = modelled - measured;
    slope[start + pixel] = found.slope * weight;
    sums.loss += (double)(found.loss * weight);
    sums.errors += (double)(error * error * weight);
  }
  sums = block_sum(sums, shared);
  if (threadIdx.x == 0) {
    double* own = parts + 4 * blockIdx.x;
    own[0] = sums.loss;
    own[1] = sums.errors;
    own[2] = sums.free_deviance;
    own[3] = sums.free_weight;
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
  sums = block_sum(sums, shared);
  if (threadIdx.x == 0) {
    totals[0] = sums.loss;
    totals[1] = sums.errors;
    totals[2] = sums.free_deviance;
    totals[3] = sums.free_weight;
  }
}
