// Loops that torch has no fast operation for on a CPU: the best columns of each row of a matrix of
// scores, the same for short rows without the matrix, rows rounded to 8 bits, scores and distances of
// rows and single centroids, and float64 sums of rows by cluster.
//
// Plain C++ with GCC's vectors (clang has them too): whatever the machine's width is, the compiler
// maps 16 lanes onto it.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
typedef int8_t Bytes __attribute__((vector_size(kLanes)));

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

inline Floats load(const int32_t* from) {
  Ints values;
  std::memcpy(&values, from, sizeof values);
  return __builtin_convertvector(values, Floats);
}

inline float load_one(const float* from) { return *from; }

inline float load_one(const int32_t* from) { return static_cast<float>(*from); }

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

// The sum of all lanes: halves are added until few numbers are left.
inline float add_up(Floats lanes) {
  typedef float Half __attribute__((vector_size(2 * kLanes)));
  typedef float Quarter __attribute__((vector_size(kLanes)));
  Half halves[2];
  std::memcpy(halves, &lanes, sizeof halves);
  const Half half = halves[0] + halves[1];
  Quarter quarters[2];
  std::memcpy(quarters, &half, sizeof quarters);
  const Quarter quarter = quarters[0] + quarters[1];
  return (quarter[0] + quarter[1]) + (quarter[2] + quarter[3]);
}

Ints count_lanes() {
  Ints lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane;
}

bool any(Ints lanes) {
  int32_t found = 0;
  for (int i = 0; i < kLanes; ++i) found |= lanes[i];
  return found != 0;
}

// The scores of one row: products[k] + bias[k], products of rounded numbers times their steps.
template <typename Product>
struct Scores {
  const Product* products;
  const float* bias;
  const float* column_steps;
  float row_step;

  Scores(const Product* all, int64_t stride, int64_t row, const float* row_steps,
         const float* steps, const float* biases)
      : products(all + row * stride), bias(biases), column_steps(steps),
        row_step(row_steps ? row_steps[row] : 1) {}

  Floats at(int64_t column) const {
    const Floats product = load(products + column);
    if constexpr (kHasSteps) {
      return product * load(column_steps + column) * row_step + load(bias + column);
    } else {
      return product + load(bias + column);
    }
  }

  float one(int64_t column) const {
    const float product = load_one(products + column);
    if constexpr (kHasSteps) {
      return product * column_steps[column] * row_step + bias[column];
    } else {
      return product + bias[column];
    }
  }

  static constexpr bool kHasSteps = std::is_same_v<Product, int32_t>;
};

template <typename Product>
void find_best_two(const Product* products, int64_t stride, const float* row_steps,
                   const float* column_steps, const float* bias, int64_t num_rows,
                   int64_t num_columns, int64_t* best_column, float* best, float* second) {
  const int64_t vectorised = num_columns - num_columns % kLanes;
  const Ints lane = count_lanes();
  for (int64_t row = 0; row < num_rows; ++row) {
    const Scores<Product> scores(products, stride, row, row_steps, column_steps, bias);
    BestTwo found;
    for (int64_t column = 0; column < vectorised; column += kLanes) {
      found.offer(scores.at(column), lane + static_cast<int32_t>(column));
    }
    if (vectorised) found.join_lanes();
    for (int64_t at = vectorised; at < num_columns; ++at) found.offer_one(scores.one(at), at);
    best_column[row] = found.column;
    best[row] = found.best;
    second[row] = found.second;
  }
}

// listed[r]: the num_listed columns that score highest, rising; lower columns win ties.
//
// The best score of each of 64 sets of columns is found first: the num_listed-th of those is a bound
// that at least so many columns reach, and few more.
template <typename Product>
void list_best(const Product* products, int64_t stride, const float* row_steps,
               const float* column_steps, const float* bias, int64_t num_rows, int64_t num_columns,
               int64_t num_listed, int32_t* listed) {
  constexpr int kChains = 4;
  constexpr int kSets = kChains * kLanes;
  const int64_t vectorised = num_columns - num_columns % kLanes;
  std::vector<std::pair<float, int32_t>> reached;  // minus the score, column
  for (int64_t row = 0; row < num_rows; ++row) {
    const Scores<Product> scores(products, stride, row, row_steps, column_steps, bias);
    float least = kLowest;
    if (num_listed <= kSets) {
      Floats highest[kChains];
      for (Floats& each : highest) each = Floats{} + kLowest;
      for (int64_t at = 0; at < vectorised; at += kLanes) {
        Floats& each = highest[at / kLanes % kChains];
        const Floats offered = scores.at(at);
        each = offered > each ? offered : each;
      }
      float sets[kSets];
      std::memcpy(sets, highest, sizeof sets);
      std::nth_element(sets, sets + num_listed - 1, sets + kSets, std::greater<float>());
      least = sets[num_listed - 1];
    }
    reached.clear();
    const auto offer = [&](float score, int64_t at) {
      if (score >= least) reached.emplace_back(-score, static_cast<int32_t>(at));
    };
    for (int64_t first = 0; first < vectorised; first += kLanes) {
      const Floats offered = scores.at(first);
      if (!any(offered >= least)) continue;
      for (int i = 0; i < kLanes; ++i) offer(offered[i], first + i);
    }
    for (int64_t at = vectorised; at < num_columns; ++at) offer(scores.one(at), at);
    if (static_cast<int64_t>(reached.size()) < num_listed) {
      // Scores that are no numbers, or were rounded otherwise when the bound was found.
      reached.clear();
      for (int64_t at = 0; at < num_columns; ++at) {
        const float score = scores.one(at);
        reached.emplace_back(score == score ? -score : -kLowest, static_cast<int32_t>(at));
      }
    }
    std::nth_element(reached.begin(), reached.begin() + num_listed - 1, reached.end());
    int32_t* const mine = listed + row * num_listed;
    for (int64_t i = 0; i < num_listed; ++i) mine[i] = reached[i].second;
    std::sort(mine, mine + num_listed);
  }
}

inline void store(Floats values, float* to) { std::memcpy(to, &values, sizeof values); }

inline void store(Floats values, uint16_t* to) {  // to the nearest bfloat16, ties to even
  Words words = reinterpret_cast<Words>(values);
  words += 0x7fff + ((words >> 16) & 1);
  const Halves halves = __builtin_convertvector(words >> 16, Halves);
  std::memcpy(to, &halves, sizeof halves);
}

// rows[r] = raw[r] - mean, rounded to the grid that adding and subtracting `rounder` rounds to;
// norms_sq[r] = |rows[r]|^2.
template <typename Number>
void enter_rows(const float* raw, int64_t num_rows, int64_t dim, const float* mean, float rounder,
                Number* rows, float* norms_sq) {
  const int64_t vectorised = dim - dim % kLanes;
  for (int64_t row = 0; row < num_rows; ++row) {
    const float* const from = raw + row * dim;
    Number* const to = rows + row * dim;
    Floats sums{};
    for (int64_t at = 0; at < vectorised; at += kLanes) {
      store((load(from + at) - load(mean + at) + rounder) - rounder, to + at);
      const Floats number = load(to + at);
      sums += number * number;
    }
    float total = 0;
    for (int64_t at = vectorised; at < dim; ++at) {
      Number few[kLanes];
      store(Floats{} + ((from[at] - mean[at] + rounder) - rounder), few);
      to[at] = few[0];
      total += load_one(to + at) * load_one(to + at);
    }
    norms_sq[row] = total + add_up(sums);
  }
}

// rounded[r] = rows[r] / steps[r], to whole numbers of at most 127.
template <typename Number>
void round_rows(const Number* rows, int64_t num_rows, int64_t dim, int64_t stride, int8_t* rounded,
                float* steps) {
  constexpr float kRounder = 1.5f * (1 << 23);  // what is added to it is rounded to a whole number
  const int64_t vectorised = dim - dim % kLanes;
  for (int64_t row = 0; row < num_rows; ++row) {
    const Number* const from = rows + row * stride;
    int8_t* const to = rounded + row * dim;
    Floats lanes{};
    for (int64_t at = 0; at < vectorised; at += kLanes) {
      const Floats numbers = load(from + at);
      const Floats size = numbers < 0 ? -numbers : numbers;
      lanes = size > lanes ? size : lanes;
    }
    float largest = 0;
    for (int i = 0; i < kLanes; ++i) largest = std::max(largest, lanes[i]);
    for (int64_t at = vectorised; at < dim; ++at) {
      largest = std::max(largest, std::fabs(load_one(from + at)));
    }
    const float factor = largest > 0 ? 127 / largest : 0;
    steps[row] = largest / 127;
    for (int64_t at = 0; at < vectorised; at += kLanes) {
      const Floats whole = (load(from + at) * factor + kRounder) - kRounder;
      const Bytes bytes = __builtin_convertvector(__builtin_convertvector(whole, Ints), Bytes);
      std::memcpy(to + at, &bytes, sizeof bytes);
    }
    for (int64_t at = vectorised; at < dim; ++at) {
      to[at] = static_cast<int8_t>((load_one(from + at) * factor + kRounder) - kRounder);
    }
  }
}

// The scores of a row and a few centroids, in float32.
template <int kTogether, typename Number>
void score_few(const Number* row, const float* centroids, const float* bias, const int32_t* columns,
               int64_t dim, float* scores) {
  const float* centroid[kTogether];
  Floats sums[kTogether] = {}, others[kTogether] = {};
  for (int i = 0; i < kTogether; ++i) centroid[i] = centroids + columns[i] * dim;
  int64_t at = 0;
  for (; at + 2 * kLanes <= dim; at += 2 * kLanes) {
    const Floats part = load(row + at), other = load(row + at + kLanes);
    for (int i = 0; i < kTogether; ++i) {
      sums[i] += part * load(centroid[i] + at);
      others[i] += other * load(centroid[i] + at + kLanes);
    }
  }
  for (int i = 0; i < kTogether; ++i) {
    float total = bias[columns[i]];
    for (int64_t rest = at; rest < dim; ++rest) total += load_one(row + rest) * centroid[i][rest];
    scores[i] = total + add_up(sums[i] + others[i]);
  }
}

// columns[r]: the best, for rows[r], of the num_listed centroids that its list names; the first of
// equals. Rows are taken in an order in which neighbours have much the same list.
template <typename Number>
void choose(const Number* rows, int64_t stride, const float* centroids, const float* bias,
            int64_t dim, const int64_t* order, int64_t num_rows, const int32_t* lists,
            int64_t num_listed, int64_t* columns) {
  constexpr int kTogether = 4;
  for (int64_t i = 0; i < num_rows; ++i) {
    const int64_t row = order[i];
    const int32_t* const list = lists + row * num_listed;
    if (i + 1 < num_rows) {
      const char* const later = reinterpret_cast<const char*>(rows + order[i + 1] * stride);
      for (int64_t at = 0; at < dim * int64_t{sizeof(Number)}; at += 64) {
        __builtin_prefetch(later + at);
      }
    }
    float best = kLowest;
    const auto offer = [&](float score, int32_t column) {
      if (score > best) {
        best = score;
        columns[row] = column;
      }
    };
    columns[row] = list[0];
    float scores[kTogether];
    int64_t at = 0;
    for (; at + kTogether <= num_listed; at += kTogether) {
      score_few<kTogether>(rows + row * stride, centroids, bias, list + at, dim, scores);
      for (int j = 0; j < kTogether; ++j) offer(scores[j], list[at + j]);
    }
    for (; at < num_listed; ++at) {
      score_few<1>(rows + row * stride, centroids, bias, list + at, dim, scores);
      offer(scores[0], list[at]);
    }
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
  return total + add_up((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// columns[i]: the nearest to rows[places[i]] of the centroids whose score is least[i] or more, or of
// all where none is; the lower column wins a tie. Few are: blocks of columns are skipped by their
// best score.
template <typename Product>
void compare(const Product* products, int64_t stride, const float* row_steps,
             const float* column_steps, const float* bias, int64_t num_columns, const float* rows,
             const float* centroids, int64_t dim, const int64_t* places, const float* least,
             int64_t num_places, int64_t* columns) {
  constexpr int kVectors = 8;
  constexpr int64_t kBlock = kVectors * kLanes;
  for (int64_t i = 0; i < num_places; ++i) {
    const Scores<Product> scores(products, stride, places[i], row_steps, column_steps, bias);
    float nearest = -kLowest;
    bool found = false;
    columns[i] = 0;
    const auto measure = [&](int64_t at) {
      found = true;
      const float distance = measure_distance(rows + places[i] * dim, centroids + at * dim, dim);
      if (distance < nearest) {
        nearest = distance;
        columns[i] = at;
      }
    };
    int64_t first = 0;
    for (; first + kBlock <= num_columns; first += kBlock) {
      Ints possible[kVectors], anywhere{};
      for (int j = 0; j < kVectors; ++j) {
        possible[j] = scores.at(first + j * kLanes) >= least[i];
        anywhere |= possible[j];
      }
      if (!any(anywhere)) continue;
      for (int j = 0; j < kBlock; ++j) {
        if (possible[j / kLanes][j % kLanes]) measure(first + j);
      }
    }
    for (; first < num_columns; ++first) {
      if (scores.one(first) >= least[i]) measure(first);
    }
    if (found) continue;  // else scores are no numbers, or rounded otherwise when the best was found
    for (int64_t at = 0; at < num_columns; ++at) measure(at);
  }
}

// sums[clusters[r]] += sign * rows[r] for each r of `order`, in the columns from..to-1 only: threads
// that take different columns never meet.
template <typename Number>
void add_rows(const Number* rows, const int64_t* order, const int64_t* clusters, int64_t num_rows,
              int64_t stride, int64_t from, int64_t to, double* sums, int64_t dim, double sign) {
  for (int64_t i = 0; i < num_rows; ++i) {
    const Number* const row = rows + order[i] * stride;
    double* const sum = sums + clusters[order[i]] * dim;
    if (i + 4 < num_rows) {
      const char* const later = reinterpret_cast<const char*>(rows + order[i + 4] * stride + from);
      for (int64_t at = 0; at < (to - from) * int64_t{sizeof(Number)}; at += 64) {
        __builtin_prefetch(later + at);
      }
    }
    for (int64_t at = from; at < to; ++at) sum[at] += sign * load_one(row + at);
  }
}

}  // namespace

extern "C" {

void measure_distances(const float* rows, const float* centroids, const int64_t* columns,
                       int64_t num_rows, int64_t dim, float* distances) {
  for (int64_t row = 0; row < num_rows; ++row) {
    distances[row] = measure_distance(rows + row * dim, centroids + columns[row] * dim, dim);
  }
}

#define FOR_PRODUCTS(SUFFIX, PRODUCT)                                                              \
  void find_best_two_##SUFFIX(const PRODUCT* products, int64_t stride, const float* row_steps,     \
                              const float* column_steps, const float* bias, int64_t num_rows,      \
                              int64_t num_columns, int64_t* columns, float* best, float* second) { \
    find_best_two(products, stride, row_steps, column_steps, bias, num_rows, num_columns, columns, \
                  best, second);                                                                   \
  }                                                                                                \
  void list_best_##SUFFIX(const PRODUCT* products, int64_t stride, const float* row_steps,         \
                          const float* column_steps, const float* bias, int64_t num_rows,          \
                          int64_t num_columns, int64_t num_listed, int32_t* listed) {              \
    list_best(products, stride, row_steps, column_steps, bias, num_rows, num_columns, num_listed,  \
              listed);                                                                             \
  }                                                                                                \
  void compare_##SUFFIX(const PRODUCT* products, int64_t stride, const float* row_steps,           \
                        const float* column_steps, const float* bias, int64_t num_columns,         \
                        const float* rows, const float* centroids, int64_t dim,                    \
                        const int64_t* places, const float* least, int64_t num_places,             \
                        int64_t* columns) {                                                        \
    compare(products, stride, row_steps, column_steps, bias, num_columns, rows, centroids, dim,    \
            places, least, num_places, columns);                                                   \
  }

FOR_PRODUCTS(int32, int32_t)
FOR_PRODUCTS(bfloat16, uint16_t)
FOR_PRODUCTS(float32, float)

#define FOR_ROWS(SUFFIX, NUMBER)                                                                   \
  void enter_rows_##SUFFIX(const float* raw, int64_t num_rows, int64_t dim, const float* mean,     \
                           double rounder, NUMBER* rows, float* norms_sq) {                        \
    enter_rows(raw, num_rows, dim, mean, static_cast<float>(rounder), rows, norms_sq);             \
  }                                                                                                \
  void add_rows_##SUFFIX(const NUMBER* rows, const int64_t* order, const int64_t* clusters,        \
                         int64_t num_rows, int64_t stride, int64_t from, int64_t to, double* sums, \
                         int64_t dim, double sign) {                                               \
    add_rows(rows, order, clusters, num_rows, stride, from, to, sums, dim, sign);                  \
  }                                                                                                \
  void round_rows_##SUFFIX(const NUMBER* rows, int64_t num_rows, int64_t dim, int64_t stride,      \
                           int8_t* rounded, float* steps) {                                        \
    round_rows(rows, num_rows, dim, stride, rounded, steps);                                       \
  }                                                                                                \
  void choose_##SUFFIX(const NUMBER* rows, int64_t stride, const float* centroids,                 \
                       const float* bias, int64_t dim, const int64_t* order, int64_t num_rows,     \
                       const int32_t* lists, int64_t num_listed, int64_t* columns) {               \
    choose(rows, stride, centroids, bias, dim, order, num_rows, lists, num_listed, columns);       \
  }

FOR_ROWS(bfloat16, uint16_t)
FOR_ROWS(float32, float)

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
