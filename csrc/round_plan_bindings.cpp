#include "round_plan_bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "round_plan.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace mars {
namespace {

template <typename T>
using NumpyArray = py::array_t<T, py::array::c_style>;  // another type is refused (noconvert below)

// The arrays of an index, kept as long as this.
struct CorpusArrays {
  NumpyArray<int64_t> boundaries;
  NumpyArray<int32_t> lengths;
  NumpyArray<int8_t> modes;
  std::optional<NumpyArray<float>> weights;
  int64_t num_codes, num_low_codes;

  Corpus view() const {
    return {Array<int64_t>(boundaries.data()), Array<int32_t>(lengths.data()), Array<int8_t>(modes.data()),
            Array<float>(weights ? weights->data() : nullptr), boundaries.size() - 1, lengths.size(), num_codes,
            num_low_codes};
  }
};

CorpusArrays make_corpus(NumpyArray<int64_t> boundaries, NumpyArray<int32_t> lengths, NumpyArray<int8_t> modes,
                         std::optional<NumpyArray<float>> weights, int64_t num_codes, int64_t num_low_codes) {
  if (boundaries.size() < 1 || modes.size() != lengths.size() || (weights && weights->size() != lengths.size())) {
    throw std::invalid_argument("the arrays of the index do not fit together");
  }
  return {std::move(boundaries), std::move(lengths), std::move(modes), std::move(weights), num_codes, num_low_codes};
}

// numpy owns the vector's memory.
template <typename T, typename Element = T>
py::array_t<Element> as_array(std::vector<T> values) {
  auto* kept = new std::vector<T>(std::move(values));
  const py::capsule owner(kept, [](void* pointer) { delete static_cast<std::vector<T>*>(pointer); });
  const auto size = static_cast<py::ssize_t>(kept->size() * sizeof(T) / sizeof(Element));
  return py::array_t<Element>(size, reinterpret_cast<const Element*>(kept->data()), owner);
}

py::dict scan_corpus(const CorpusArrays& arrays) {
  Scan found;
  {
    py::gil_scoped_release release;
    found = scan(arrays.view());
  }
  return py::dict("documents"_a = found.documents, "longest"_a = found.longest,
                  "longest_document"_a = found.longest_document, "problem"_a = found.problem);
}

// (corpus, kind, documents or None, first_slot, num_documents, start, count, tasks, limits)
using StreamFields = std::tuple<int64_t, int64_t, std::optional<NumpyArray<uint32_t>>, int64_t, int64_t, int64_t, int64_t,
                                std::vector<int64_t>, std::vector<uint64_t>>;

Stream make_stream(const StreamFields& fields, const std::vector<Corpus>& corpora) {
  const auto& [corpus, kind, documents, first_slot, num_documents, start, count, tasks, limits] = fields;
  const bool fits = corpus >= 0 && corpus < static_cast<int64_t>(corpora.size()) && corpus < 256 && num_documents > 0 &&
                    start >= 0 && count >= 0 && !tasks.empty() && tasks.size() == limits.size() &&
                    limits.back() == ~uint64_t{0} && first_slot >= 0;
  if (!fits) throw std::invalid_argument("not a stream");
  const int64_t size = documents ? documents->size() : corpora[corpus].num_documents - first_slot;
  if (num_documents > size) throw std::invalid_argument("a stream has more documents than its corpus");
  Stream stream{corpus, static_cast<Kind>(kind), documents ? documents->data() : nullptr, first_slot, num_documents,
                start, count, {}, limits};
  for (const int64_t task : tasks) {
    if (task < 0 || task >= kNumTasks) throw std::invalid_argument("not a task: " + std::to_string(task));
    stream.tasks.push_back(static_cast<Task>(task));
  }
  return stream;
}

py::tuple plan(const std::vector<const CorpusArrays*>& arrays, const std::vector<StreamFields>& stream_fields,
               uint64_t seed, double dropout, int64_t budget, int64_t lookahead, bool pack_by_task, bool tasks_in_turn,
               bool skip_too_long) {
  std::vector<Corpus> corpora;
  for (const CorpusArrays* corpus : arrays) corpora.push_back(corpus->view());
  std::vector<Stream> streams;
  for (const StreamFields& fields : stream_fields) streams.push_back(make_stream(fields, corpora));
  if (budget < 1 || lookahead < 1 || lookahead > 65535) throw std::invalid_argument("budget or lookahead out of range");
  RoundPlan made;
  {
    py::gil_scoped_release release;
    made = plan_round(corpora, streams, {seed, dropout, budget, lookahead, pack_by_task, tasks_in_turn, skip_too_long});
  }
  return py::make_tuple(as_array<Sample, uint64_t>(std::move(made.samples)), as_array(std::move(made.offsets)),
                        made.num_too_long);
}

py::list divide(const CorpusArrays& arrays, int64_t first_slot, int64_t end_slot) {
  if (first_slot < 0 || end_slot > arrays.boundaries.size() - 1) throw std::invalid_argument("slots out of range");
  std::array<std::vector<uint32_t>, kNumKinds> divided;
  {
    py::gil_scoped_release release;
    divided = divide_documents(arrays.view(), first_slot, end_slot);
  }
  py::list kinds;
  for (auto& documents : divided) kinds.append(as_array(std::move(documents)));
  return kinds;
}

}  // namespace

void bind_round_plan(py::module_& module) {
  py::class_<CorpusArrays>(module, "Corpus")
      .def(py::init(&make_corpus), "boundaries"_a.noconvert(), "lengths"_a.noconvert(), "modes"_a.noconvert(),
           "weights"_a.noconvert(), "num_codes"_a, "num_low_codes"_a);
  module.def("scan_corpus", &scan_corpus, "corpus"_a);
  module.def("divide_documents", &divide, "corpus"_a, "first_slot"_a, "end_slot"_a);
  module.def("plan_round", &plan, "corpora"_a, "streams"_a, "seed"_a, "dropout"_a, "budget"_a, "lookahead"_a,
             "pack_by_task"_a, "tasks_in_turn"_a, "skip_too_long"_a);
}

}  // namespace mars
