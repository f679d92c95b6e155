// Pixels of a batch as the kernels of losses see them: modelled and measured counts, their weights, and which are free.
//
// Data keep the detector's own type, DATA (the name of a NumPy type). A block has some pixels of one pattern, and leaves
// their sums for a second kernel; the order of all sums is fixed.
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

struct Value {
  real_t modelled, measured;
  real_t weight, free_weight;  // a free pixel has only the second, the others only the first
};

// intensity (pattern, pixels). data (rows, pixels): pattern j has row rows[j], or row j if that is null. weights
// (pixels), or with own_weights (pattern, pixels). index (pattern): numbers of the patterns, by which pixels are free.
// usable (pixels): factor on the weights of free pixels. Weights and usable may be null.
struct Values {
  const real_t* intensity;
  const data_t* data;
  const int* rows;
  const real_t* weights;
  const int* index;
  const real_t* usable;
  int pixels;
  bool own_weights;
  real_t multiplier;
  Hidden hidden;

  __device__ __forceinline__ Value operator()(int pattern, int pixel) const {
    const size_t place = (size_t)pattern * pixels + pixel, row = rows ? rows[pattern] : pattern;
    const real_t weight = weights ? weights[own_weights ? place : pixel] : (real_t)1;
    const Value value{intensity[place], (real_t)data[row * pixels + pixel] * multiplier, weight, 0};
    if (!hidden.below || !hidden.is_free(index[pattern], pixel)) return value;
    return Value{value.modelled, value.measured, 0, weight * (usable ? usable[pixel] : (real_t)1)};
  }
};

struct Scored {
  real_t loss, slope;
};

// (sqrt I - sqrt D)^2; rounding has no slope.
__device__ __forceinline__ Scored amplitudes(real_t intensity, real_t data, real_t dark) {
  const real_t amplitude = sqrt(intensity);
  const real_t difference = amplitude - sqrt(data);
  return Scored{difference * difference, intensity <= dark ? (real_t)0 : difference / amplitude};
}

// Sum over the threads of a block, each of which has filled its own element, in the first, always in the same order.
// Only thread 0 may read it.
template <class Sums>
__device__ __forceinline__ void block_sum(Sums* shared) {
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < half) {
      shared[threadIdx.x].add(shared[threadIdx.x + half]);
    }
  }
}
