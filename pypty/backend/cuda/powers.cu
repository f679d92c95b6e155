// Sums and slope of losses of powers of counts, in one pass over intensities and data; objective/powers.py defines them.
//
// I = modelled, M = measured counts, D = I + floor.

// The columns of the sums, those of objective/powers.py.
#define LOSS 0
#define ERRORS 1
#define SINGLE 2
#define POISSN 3
#define WEIGHT 4
#define RAISED 5
#define FREE 8
#define N_SUMS 10

// Bits of the terms that there are.
#define HAS_SINGLE 1
#define HAS_POISSN 2
#define HAS_PACBED 4

// All but the loss, which follows from them. They lie in shared memory: in registers there would be room for few threads.
struct Sums {
  double of[N_SUMS - 1];  // an odd number: threads of a warp use different banks

  __device__ __forceinline__ double& operator[](int column) { return of[column - 1]; }

  __device__ __forceinline__ void clear() {
    for (int column = 1; column < N_SUMS; column++) (*this)[column] = 0;
  }

  __device__ __forceinline__ void add(Sums& other) {
    for (int column = 1; column < N_SUMS; column++) (*this)[column] += other[column];
  }
};

__device__ __forceinline__ real_t power_of(real_t counts, real_t power) {
  if (power == 1) return counts;
  return power == (real_t)0.5 ? sqrt(counts) : pow(counts, power);
}

struct Terms {
  int present;
  bool bounded_slope;
  real_t floor, dark, single_power, poissn_power, pacbed_power, eps;
  double single_weight, poissn_weight;
  const double* factors;
  const real_t* shared_slope;

  // Of the slope of a term.
  __device__ __forceinline__ real_t factor(int number) const {
    const double weight = number ? poissn_weight : single_weight;
    return (real_t)(factors ? weight * factors[number] : weight);
  }

  // Adds the losses of a pixel, without their factors, and M^g; gives the slope.
  __device__ __forceinline__ real_t score(const Value& value, int pixel, Sums& sums) const {
    const real_t error = value.modelled - value.measured, weight = value.weight;
    sums[ERRORS] += (double)(error * error * weight);
    sums[WEIGHT] += (double)weight;
    if (present & HAS_PACBED) sums[RAISED + 2] += (double)(power_of(value.measured, pacbed_power) * weight);
    const real_t modelled = value.modelled + floor;
    // with a bounded slope that of the terms is not needed
    real_t slope = bounded_slope ? amplitudes(value.modelled, value.measured, dark).slope : (real_t)0;
    const bool own = !bounded_slope && !(value.modelled <= dark);
    if (present & HAS_SINGLE) {
      const real_t counts = power_of(value.measured, single_power);
      sums[RAISED] += (double)(counts * weight);
      const real_t power = power_of(modelled, single_power), difference = power - counts;
      sums[SINGLE] += (double)(difference * difference * weight);
      if (own) slope += factor(0) * (2 * single_power * difference * power / modelled);
    }
    if (present & HAS_POISSN) {
      const real_t counts = power_of(value.measured, poissn_power);
      sums[RAISED + 1] += (double)(counts * weight);
      const real_t power = power_of(modelled, poissn_power), safe = power + eps;
      sums[POISSN] += (double)((power - counts * log(safe)) * weight);
      if (own) slope += factor(1) * (poissn_power * (1 - counts / safe) * power / modelled);
    }
    return own && shared_slope ? slope + shared_slope[pixel] : slope;
  }
};

// slope (pattern, pixels), parts (block, N_SUMS) without their first column. shared_slope (pixels), added to that of
// every pattern, and factors (2) of the slopes of the two terms may be null; the others as in Values.
extern "C" __global__ void __launch_bounds__(THREADS)
    score_powers(const real_t* intensity, const data_t* data, const int* rows, const real_t* weights, const int* index,
                 const real_t* usable, int pixels, int width, int own_weights, real_t multiplier, real_t free_gain,
                 real_t free_shift, unsigned int free_below, unsigned int free_start, const real_t* shared_slope,
                 const double* factors, real_t* slope, double* parts, int blocks, int terms, int bounded_slope,
                 real_t floor, real_t dark, real_t single_power, real_t poissn_power, real_t pacbed_power, real_t eps,
                 double single_weight, double poissn_weight) {
  __shared__ Sums shared[THREADS];
  const int pattern = blockIdx.x / blocks;
  const int first = blockIdx.x % blocks * (THREADS * PIXELS_PER_THREAD) + threadIdx.x;
  const Hidden hidden{free_below, free_start, free_gain, free_shift, width};
  const Values values{intensity, data, rows, weights, index, usable, pixels, own_weights != 0, multiplier, hidden};
  const Terms formula{terms,
                      bounded_slope != 0,
                      floor,
                      dark,
                      single_power,
                      poissn_power,
                      pacbed_power,
                      eps,
                      single_weight,
                      poissn_weight,
                      factors,
                      shared_slope};
  Sums& sums = shared[threadIdx.x];
  sums.clear();
#pragma unroll 1
  for (int e = 0; e < PIXELS_PER_THREAD; e++) {
    const int pixel = first + THREADS * e;
    if (pixel >= pixels) break;
    const Value value = values(pattern, pixel);
    if (value.free_weight != 0) {
      sums[FREE] += (double)(hidden.deviance(value.modelled, value.measured) * value.free_weight);
      sums[FREE + 1] += (double)value.free_weight;
    }
    slope[(size_t)pattern * pixels + pixel] = formula.score(value, pixel, sums) * value.weight;
  }
  block_sum(shared);
  if (threadIdx.x == 0) {
    for (int column = 1; column < N_SUMS; column++) parts[(size_t)N_SUMS * blockIdx.x + column] = shared[0][column];
  }
}

// totals (N_SUMS) = the sum of parts (n_parts, N_SUMS), and the weighted loss. One block.
extern "C" __global__ void __launch_bounds__(THREADS)
    add_powers(const double* parts, double* totals, int n_parts, double single_weight, double poissn_weight) {
  __shared__ Sums shared[THREADS];
  Sums& sums = shared[threadIdx.x];
  sums.clear();
  for (int part = threadIdx.x; part < n_parts; part += THREADS) {
    for (int column = 1; column < N_SUMS; column++) sums[column] += parts[(size_t)N_SUMS * part + column];
  }
  block_sum(shared);
  if (threadIdx.x == 0) {
    for (int column = 1; column < N_SUMS; column++) totals[column] = sums[column];
    totals[LOSS] = single_weight * sums[SINGLE] + poissn_weight * sums[POISSN];
  }
}

// Adds to sums (3, pixels) the weighted sums of D, M and 1 over the patterns of a batch; the others as in Values. A
// thread for each pixel: the order is that of the patterns.
extern "C" __global__ void __launch_bounds__(THREADS)
    add_patterns(const real_t* intensity, const data_t* data, const int* rows, const real_t* weights, const int* index,
                 const real_t* usable, int pixels, int width, int own_weights, real_t multiplier, real_t free_gain,
                 real_t free_shift, unsigned int free_below, unsigned int free_start, double* sums, int patterns,
                 real_t floor) {
  const int pixel = blockIdx.x * blockDim.x + threadIdx.x;
  if (pixel >= pixels) return;
  const Hidden hidden{free_below, free_start, free_gain, free_shift, width};
  const Values values{intensity, data, rows, weights, index, usable, pixels, own_weights != 0, multiplier, hidden};
  double of_model = 0, of_data = 0, of_weights = 0;
#pragma unroll 4
  for (int pattern = 0; pattern < patterns; pattern++) {
    const Value value = values(pattern, pixel);
    of_model += (double)((value.modelled + floor) * value.weight);
    of_data += (double)(value.measured * value.weight);
    of_weights += (double)value.weight;
  }
  sums[pixel] += of_model;
  sums[(size_t)pixels + pixel] += of_data;
  sums[2 * (size_t)pixels + pixel] += of_weights;
}
