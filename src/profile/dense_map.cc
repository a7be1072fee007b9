// SPDX-License-Identifier: Apache-2.0
// Stage 1/7 normalise, prepared: the dense map that gives queries and keys the same second moment
// (polarquant/key_profile.h), by Eigen's symmetric eigenvalue solver.
#include <Eigen/Dense>
#include <string>

#include "polarquant/error.h"
#include "polarquant/model_profile.h"

namespace polarquant {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Solver = Eigen::SelfAdjointEigenSolver<Matrix>;

// Of the largest eigenvalue: what counts as nothing. Its fourth root is what a map may do to one
// direction more than to another: 1/32.
constexpr double kSmallest = 1e-6;

// Eigenvalues at least kSmallest of the largest; all 1 if there is nothing at all.
Eigen::VectorXd Bounded(const Eigen::VectorXd& values) {
  const double largest = values.maxCoeff();
  if (!(largest > 0)) return Eigen::VectorXd::Ones(values.size());
  return values.cwiseMax(kSmallest * largest);
}

}  // namespace

std::vector<float> DenseMap(const std::vector<double>& query_moments,
                            const std::vector<double>& key_covariance, int head_dim) {
  const Eigen::Map<const Matrix> queries(query_moments.data(), head_dim, head_dim);
  const Eigen::Map<const Matrix> keys(key_covariance.data(), head_dim, head_dim);
  const Solver of_queries(queries);
  const Matrix root = of_queries.eigenvectors() *
                      Bounded(of_queries.eigenvalues()).cwiseSqrt().asDiagonal() *
                      of_queries.eigenvectors().transpose();
  const Solver both(Matrix(root * keys * root));
  const Eigen::VectorXd fourth_roots = Bounded(both.eigenvalues()).cwiseSqrt().cwiseSqrt();
  Matrix map = fourth_roots.cwiseInverse().asDiagonal() * both.eigenvectors().transpose() * root;
  const double energy = keys.trace(), mapped = (map * keys * map.transpose()).trace();
  if (energy > 0 && mapped > 0) map *= std::sqrt(energy / mapped);
  std::vector<float> values;
  values.reserve(static_cast<size_t>(map.size()));
  for (Eigen::Index i = 0; i < map.size(); ++i) values.push_back(static_cast<float>(map.data()[i]));
  return values;
}

std::vector<float> InverseMaps(const std::vector<float>& maps, int head_dim) {
  using Single = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  std::vector<float> inverses(maps.size());
  const size_t size = static_cast<size_t>(head_dim) * static_cast<size_t>(head_dim);
  if (maps.size() % size != 0) {
    throw Error(ErrorCode::kParameter,
                std::to_string(maps.size()) + " values are no dense maps of head_dim " +
                    std::to_string(head_dim) + ": each has " + std::to_string(size));
  }
  for (size_t first = 0; first < maps.size(); first += size) {
    const Eigen::Map<const Single> map(maps.data() + first, head_dim, head_dim);
    const Matrix inverse = Matrix(map.cast<double>()).inverse();
    Eigen::Map<Single>(inverses.data() + first, head_dim, head_dim) = inverse.cast<float>();
  }
  return inverses;
}

}  // namespace polarquant
