// Two loops that torch has no fast operation for on a CPU: the best two columns of each row of a
// matrix of scores, and float64 sums of rows by cluster.
//
// Plain C++ with GCC's vectors (clang has them too): whatever the machine's width is, the compiler
// maps 16 lanes onto it.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));

inline Floats load(const float* from) {
  Floats values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

inline Floats load(const uint16_t* from) {  // bfloat16 is the upper half of a float32
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  return reinterpret_cast<Floats>(__builtin_convertvector(halves, Words) << 16);
}

inline float load_one(const float* from) { return *from; }

inline float load_one(const uint16_t* from) {
  const uint32_t word = static_cast<uint32_t>(*from) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

// score(r, k) = products[r, k] + bias[k]; the lower column wins a tie.
template <typename Product>
void find_best_two(const Product* products, const float* bias, int64_t num_rows, int64_t num_columns,
                   int64_t stride, int64_t* best_column, float* best, float* second) {
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  const int64_t vectorised = num_columns - num_columns % kLanes;
  Ints lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  for (int64_t row = 0; row < num_rows; ++row) {
    const Product* const line = products + row * stride;
    Floats first = Floats{} + kLowest, next = Floats{} + kLowest;
    Ints where = lane;
    for (int64_t column = 0; column < vectorised; column += kLanes) {
      const Floats score = load(line + column) + load(bias + column);
      const Ints better = score > first;
      const Floats loser = better ? first : score;
      next = loser > next ? loser : next;
      first = better ? score : first;
      where = better ? lane + static_cast<int32_t>(column) : where;
    }
    float top = kLowest, runner_up = kLowest;
    int64_t column = 0;
    const auto offer = [&](float score, int64_t at) {
      if (score > top || (score == top && at < column)) {
        runner_up = top;
        top = score;
        column = at;
      } else if (score > runner_up) {
        runner_up = score;
      }
    };
    for (int i = 0; i < kLanes && vectorised; ++i) {
      offer(first[i], where[i]);
      if (next[i] > runner_up) runner_up = next[i];
    }
    for (int64_t at = vectorised; at < num_columns; ++at) offer(load_one(line + at) + bias[at], at);
    best_column[row] = column;
    best[row] = top;
    second[row] = runner_up;
  }
}

// sums[clusters[r]] += rows[r] for each r of `order`, in the columns from..to-1 only: threads that
// take different columns never meet.
template <typename Number>
void add_rows(const Number* rows, const int64_t* order, const int64_t* clusters, int64_t num_rows,
              int64_t stride, int64_t from, int64_t to, double* sums, int64_t dim) {
  for (int64_t i = 0; i < num_rows; ++i) {
    const Number* const row = rows + order[i] * stride;
    double* const sum = sums + clusters[order[i]] * dim;
    if (i + 4 < num_rows) {
      const char* const later = reinterpret_cast<const char*>(rows + order[i + 4] * stride + from);
      for (int64_t at = 0; at < (to - from) * int64_t{sizeof(Number)}; at += 64) {
        __builtin_prefetch(later + at);
      }
    }
    for (int64_t column = from; column < to; ++column) sum[column] += load_one(row + column);
  }
}

}  // namespace

extern "C" {

void find_best_two_bfloat16(const uint16_t* products, const float* bias, int64_t num_rows,
                            int64_t num_columns, int64_t stride, int64_t* best_column, float* best,
                            float* second) {
  find_best_two(products, bias, num_rows, num_columns, stride, best_column, best, second);
}

void find_best_two_float32(const float* products, const float* bias, int64_t num_rows,
                           int64_t num_columns, int64_t stride, int64_t* best_column, float* best,
                           float* second) {
  find_best_two(products, bias, num_rows, num_columns, stride, best_column, best, second);
}

void add_rows_bfloat16(const uint16_t* rows, const int64_t* order, const int64_t* clusters,
                       int64_t num_rows, int64_t stride, int64_t from, int64_t to, double* sums,
                       int64_t dim) {
  add_rows(rows, order, clusters, num_rows, stride, from, to, sums, dim);
}

void add_rows_float32(const float* rows, const int64_t* order, const int64_t* clusters,
                      int64_t num_rows, int64_t stride, int64_t from, int64_t to, double* sums,
                      int64_t dim) {
  add_rows(rows, order, clusters, num_rows, stride, from, to, sums, dim);
}
}
