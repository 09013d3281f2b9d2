// Loops that torch has no fast operation for on a CPU: the best two columns of each row of a matrix
// of scores, the same for short rows without the matrix, distances of rows from single centroids, and
// float64 sums of rows by cluster.
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

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// The two best of the scores that a row has been offered so far; the lower column wins a tie.
struct BestTwo {
  Floats first = Floats{} + kLowest, next = Floats{} + kLowest;  // of each lane
  Ints where{};
  float best = kLowest, second = kLowest;
  int64_t column = 0;

  void offer(Floats scores, Ints columns) {
    const Ints better = scores > first;
    const Floats loser = better ? first : scores;
    next = loser > next ? loser : next;
    first = better ? scores : first;
    where = better ? columns : where;
  }

  void offer_one(float score, int64_t at) {
    if (score > best || (score == best && at < column)) {
      second = best;
      best = score;
      column = at;
    } else if (score > second) {
      second = score;
    }
  }

  void join_lanes() {
    for (int i = 0; i < kLanes; ++i) {
      offer_one(first[i], where[i]);
      if (next[i] > second) second = next[i];
    }
  }
};

Ints count_lanes() {
  Ints lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane;
}

// score(r, k) = products[r, k] + bias[k]
template <typename Product>
void find_best_two(const Product* products, const float* bias, int64_t num_rows, int64_t num_columns,
                   int64_t stride, int64_t* best_column, float* best, float* second) {
  const int64_t vectorised = num_columns - num_columns % kLanes;
  const Ints lane = count_lanes();
  for (int64_t row = 0; row < num_rows; ++row) {
    const Product* const line = products + row * stride;
    BestTwo found;
    for (int64_t column = 0; column < vectorised; column += kLanes) {
      found.offer(load(line + column) + load(bias + column), lane + static_cast<int32_t>(column));
    }
    if (vectorised) found.join_lanes();
    for (int64_t at = vectorised; at < num_columns; ++at) {
      found.offer_one(load_one(line + at) + bias[at], at);
    }
    best_column[row] = found.column;
    best[row] = found.best;
    second[row] = found.second;
  }
}

// score(r, k) = rows[r] . centroids[:, k] + bias[k], for rows so short that no product is worth
// writing down. num_columns is a multiple of the lanes.
template <int kRows>
void search_rows(const float* rows, const float* centroids, const float* bias, int64_t num_columns,
                 int64_t dim, int64_t* best_column, float* best, float* second) {
  const Ints lane = count_lanes();
  BestTwo found[kRows];
  for (int64_t column = 0; column < num_columns; column += kLanes) {
    Floats scores[kRows];
    for (int row = 0; row < kRows; ++row) scores[row] = load(bias + column);
    for (int64_t at = 0; at < dim; ++at) {
      const Floats part = load(centroids + at * num_columns + column);
      for (int row = 0; row < kRows; ++row) scores[row] += rows[row * dim + at] * part;
    }
    for (int row = 0; row < kRows; ++row) {
      found[row].offer(scores[row], lane + static_cast<int32_t>(column));
    }
  }
  for (int row = 0; row < kRows; ++row) {
    found[row].join_lanes();
    best_column[row] = found[row].column;
    best[row] = found[row].best;
    second[row] = found[row].second;
  }
}

// |row - centroid|^2
float measure_distance(const float* row, const float* centroid, int64_t dim) {
  constexpr int kChains = 4;  // sums that do not wait for each other
  Floats sums[kChains] = {};
  int64_t at = 0;
  for (; at + kChains * kLanes <= dim; at += kChains * kLanes) {
    for (int chain = 0; chain < kChains; ++chain) {
      const int64_t from = at + chain * kLanes;
      const Floats difference = load(row + from) - load(centroid + from);
      sums[chain] += difference * difference;
    }
  }
  float total = 0;
  for (; at < dim; ++at) total += (row[at] - centroid[at]) * (row[at] - centroid[at]);
  const Floats sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (int i = 0; i < kLanes; ++i) total += sum[i];
  return total;
}

bool any(Ints lanes) {
  int32_t found = 0;
  for (int i = 0; i < kLanes; ++i) found |= lanes[i];
  return found != 0;
}

// columns[i]: the nearest to rows[places[i]] of the centroids whose score is least[i] or more; the
// lower column wins a tie. Few are: blocks of columns are skipped by their best score.
template <typename Product>
void compare(const Product* products, const float* bias, int64_t num_columns, int64_t stride,
             const float* rows, const float* centroids, int64_t dim, const int64_t* places,
             const float* least, int64_t num_places, int64_t* columns) {
  constexpr int64_t kBlock = 8 * kLanes;
  for (int64_t i = 0; i < num_places; ++i) {
    const Product* const line = products + places[i] * stride;
    float nearest = -kLowest;
    for (int64_t first = 0; first < num_columns; first += kBlock) {
      const int64_t last = first + kBlock < num_columns ? first + kBlock : num_columns;
      if (last == first + kBlock) {
        Ints possible{};
        for (int64_t at = first; at < last; at += kLanes) {
          possible |= load(line + at) + load(bias + at) >= least[i];
        }
        if (!any(possible)) continue;
      }
      for (int64_t at = first; at < last; ++at) {
        if (!(load_one(line + at) + bias[at] >= least[i])) continue;
        const float distance = measure_distance(rows + places[i] * dim, centroids + at * dim, dim);
        if (distance < nearest) {
          nearest = distance;
          columns[i] = at;
        }
      }
    }
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

void measure_distances(const float* rows, const float* centroids, const int64_t* columns,
                       int64_t num_rows, int64_t dim, float* distances) {
  for (int64_t row = 0; row < num_rows; ++row) {
    distances[row] = measure_distance(rows + row * dim, centroids + columns[row] * dim, dim);
  }
}

void compare_bfloat16(const uint16_t* products, const float* bias, int64_t num_columns,
                      int64_t stride, const float* rows, const float* centroids, int64_t dim,
                      const int64_t* places, const float* least, int64_t num_places,
                      int64_t* columns) {
  compare(products, bias, num_columns, stride, rows, centroids, dim, places, least, num_places,
          columns);
}

void compare_float32(const float* products, const float* bias, int64_t num_columns, int64_t stride,
                     const float* rows, const float* centroids, int64_t dim, const int64_t* places,
                     const float* least, int64_t num_places, int64_t* columns) {
  compare(products, bias, num_columns, stride, rows, centroids, dim, places, least, num_places,
          columns);
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

void search_float32(const float* rows, const float* centroids, const float* bias, int64_t num_rows,
                    int64_t num_columns, int64_t dim, int64_t* best_column, float* best,
                    float* second) {
  constexpr int kTogether = 4;  // rows that share what is loaded of the centroids
  int64_t row = 0;
  for (; row + kTogether <= num_rows; row += kTogether) {
    search_rows<kTogether>(rows + row * dim, centroids, bias, num_columns, dim, best_column + row,
                           best + row, second + row);
  }
  for (; row < num_rows; ++row) {
    search_rows<1>(rows + row * dim, centroids, bias, num_columns, dim, best_column + row,
                   best + row, second + row);
  }
}
}
