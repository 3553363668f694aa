// oneDNN's vanilla_rnn, lstm, lbr_gru and matmul behind a C interface, one object per case, for `onednn_rnn.py`.
//
// Every memory object is made once, when the case is prepared; a step only executes primitives. Weights arrive plain
// (ldigo). In training a weight format of the primitive's own choosing is reordered to in every step, because a
// training step starts with new weights; in inference once, when the case is prepared. Weight gradients are accumulated
// by the primitive, so a step clears them first.

#include <algorithm>
#include <exception>
#include <functional>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <unordered_map>
#include <vector>

using dnnl::memory;
using Tag = memory::format_tag;
using Arguments = std::unordered_map<int, memory>;

namespace {

std::string last_error;

struct Execution {
    dnnl::primitive primitive;
    Arguments arguments;
};

class Case {
public:
    Case() : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {}
    virtual ~Case() = default;

    void step() {
        for (const auto& [begin, count] : cleared_) std::fill(begin, begin + count, 0.0f);
        for (auto& execution : executions_) execution.primitive.execute(stream_, execution.arguments);
        stream_.wait();
    }

protected:
    static memory::desc desc(memory::dims dims, Tag tag) { return {dims, memory::data_type::f32, tag}; }

    memory of(const memory::desc& desc, const float* data) { return {desc, engine_, const_cast<float*>(data)}; }

    // The same numbers in the format a primitive asks for; the reorder is part of every step unless `once`.
    memory in_format(memory plain, const memory::desc& wanted, bool once) {
        if (plain.get_desc() == wanted) return plain;
        memory formatted(wanted, engine_);
        Execution reorder{dnnl::reorder(plain, formatted), {{DNNL_ARG_FROM, plain}, {DNNL_ARG_TO, formatted}}};
        if (once) {
            reorder.primitive.execute(stream_, reorder.arguments);
            stream_.wait();
        } else {
            executions_.push_back(reorder);
        }
        return formatted;
    }

    dnnl::engine engine_;
    dnnl::stream stream_;
    std::vector<Execution> executions_;
    std::vector<std::pair<float*, size_t>> cleared_;
};

struct Sizes {
    memory::dim T, B, I, H;
};

struct Arrays {
    const float *x, *h0, *c0, *W_xh, *W_hh, *b, *dy, *dh_n, *dc_n;
    float *y, *h_n, *c_n, *dx, *dh0, *dc0, *dW_xh, *dW_hh, *db;
};

constexpr auto kForwards = dnnl::rnn_direction::unidirectional_left2right;

struct Descs {
    memory::desc x, y, state, plain_xh, plain_hh, any_xh, any_hh, bias;
};

struct Plain {
    static constexpr memory::dim gates = 1, biases = 1;
    static constexpr bool has_c = false;
    static constexpr auto tanh = dnnl::algorithm::eltwise_tanh;
    using Forward = dnnl::vanilla_rnn_forward;
    using Backward = dnnl::vanilla_rnn_backward;

    static Forward::primitive_desc forward(const dnnl::engine& engine, dnnl::prop_kind kind, const Descs& d) {
        return {engine, kind, tanh, kForwards, d.x, d.state, d.any_xh, d.any_hh, d.bias, d.y, d.state};
    }

    static Backward::primitive_desc backward(const dnnl::engine& engine, const Descs& d,
                                             const Forward::primitive_desc& forward) {
        return {engine,     dnnl::prop_kind::backward,
                tanh,       kForwards,
                d.x,        d.state,
                d.any_xh,   d.any_hh,
                d.bias,     d.y,
                d.state,    d.x,
                d.state,    d.plain_xh,
                d.plain_hh, d.bias,
                d.y,        d.state,
                forward};
    }
};

struct Lstm {
    static constexpr memory::dim gates = 4, biases = 4;
    static constexpr bool has_c = true;
    using Forward = dnnl::lstm_forward;
    using Backward = dnnl::lstm_backward;

    static Forward::primitive_desc forward(const dnnl::engine& engine, dnnl::prop_kind kind, const Descs& d) {
        return {engine, kind, kForwards, d.x, d.state, d.state, d.any_xh, d.any_hh, d.bias, d.y, d.state, d.state};
    }

    static Backward::primitive_desc backward(const dnnl::engine& engine, const Descs& d,
                                             const Forward::primitive_desc& forward) {
        return {engine,     dnnl::prop_kind::backward,
                kForwards,  d.x,
                d.state,    d.state,
                d.any_xh,   d.any_hh,
                d.bias,     d.y,
                d.state,    d.state,
                d.x,        d.state,
                d.state,    d.plain_xh,
                d.plain_hh, d.bias,
                d.y,        d.state,
                d.state,    forward};
    }
};

struct Gru {
    static constexpr memory::dim gates = 3, biases = 4;
    static constexpr bool has_c = false;
    using Forward = dnnl::lbr_gru_forward;
    using Backward = dnnl::lbr_gru_backward;

    static Forward::primitive_desc forward(const dnnl::engine& engine, dnnl::prop_kind kind, const Descs& d) {
        return {engine, kind, kForwards, d.x, d.state, d.any_xh, d.any_hh, d.bias, d.y, d.state};
    }

    static Backward::primitive_desc backward(const dnnl::engine& engine, const Descs& d,
                                             const Forward::primitive_desc& forward) {
        return {engine,     dnnl::prop_kind::backward,
                kForwards,  d.x,
                d.state,    d.any_xh,
                d.any_hh,   d.bias,
                d.y,        d.state,
                d.x,        d.state,
                d.plain_xh, d.plain_hh,
                d.bias,     d.y,
                d.state,    forward};
    }
};

template <class Cell>
class Layer : public Case {
public:
    Layer(Sizes s, const Arrays& a, bool training) {
        const memory::dims xh{1, 1, s.I, Cell::gates, s.H}, hh{1, 1, s.H, Cell::gates, s.H};
        const Descs d{
            .x = desc({s.T, s.B, s.I}, Tag::tnc),
            .y = desc({s.T, s.B, s.H}, Tag::tnc),
            .state = desc({1, 1, s.B, s.H}, Tag::ldnc),
            .plain_xh = desc(xh, Tag::ldigo),
            .plain_hh = desc(hh, Tag::ldigo),
            .any_xh = desc(xh, Tag::any),
            .any_hh = desc(hh, Tag::any),
            .bias = desc({1, 1, Cell::biases, s.H}, Tag::ldgo),
        };
        const auto kind = training ? dnnl::prop_kind::forward_training : dnnl::prop_kind::forward_inference;
        const auto forward = Cell::forward(engine_, kind, d);
        auto W_xh = of(d.plain_xh, a.W_xh), W_hh = of(d.plain_hh, a.W_hh);
        Arguments arguments{
            {DNNL_ARG_SRC_LAYER, of(d.x, a.x)},
            {DNNL_ARG_SRC_ITER, of(d.state, a.h0)},
            {DNNL_ARG_WEIGHTS_LAYER, in_format(W_xh, forward.weights_layer_desc(), !training)},
            {DNNL_ARG_WEIGHTS_ITER, in_format(W_hh, forward.weights_iter_desc(), !training)},
            {DNNL_ARG_BIAS, of(d.bias, a.b)},
            {DNNL_ARG_DST_LAYER, of(d.y, a.y)},
            {DNNL_ARG_DST_ITER, of(d.state, a.h_n)},
        };
        if constexpr (Cell::has_c) {
            arguments.insert({{DNNL_ARG_SRC_ITER_C, of(d.state, a.c0)}, {DNNL_ARG_DST_ITER_C, of(d.state, a.c_n)}});
        }
        if (training) arguments.insert({DNNL_ARG_WORKSPACE, memory(forward.workspace_desc(), engine_)});
        executions_.push_back({typename Cell::Forward(forward), arguments});
        if (!training) return;

        const auto backward = Cell::backward(engine_, d, forward);
        arguments.at(DNNL_ARG_WEIGHTS_LAYER) = in_format(W_xh, backward.weights_layer_desc(), false);
        arguments.at(DNNL_ARG_WEIGHTS_ITER) = in_format(W_hh, backward.weights_iter_desc(), false);
        arguments.insert({
            {DNNL_ARG_DIFF_SRC_LAYER, of(d.x, a.dx)},
            {DNNL_ARG_DIFF_SRC_ITER, of(d.state, a.dh0)},
            {DNNL_ARG_DIFF_WEIGHTS_LAYER, of(d.plain_xh, a.dW_xh)},
            {DNNL_ARG_DIFF_WEIGHTS_ITER, of(d.plain_hh, a.dW_hh)},
            {DNNL_ARG_DIFF_BIAS, of(d.bias, a.db)},
            {DNNL_ARG_DIFF_DST_LAYER, of(d.y, a.dy)},
            {DNNL_ARG_DIFF_DST_ITER, of(d.state, a.dh_n)},
        });
        if constexpr (Cell::has_c) {
            arguments.insert(
                {{DNNL_ARG_DIFF_SRC_ITER_C, of(d.state, a.dc0)}, {DNNL_ARG_DIFF_DST_ITER_C, of(d.state, a.dc_n)}});
        }
        executions_.push_back({typename Cell::Backward(backward), arguments});
        const auto I = static_cast<size_t>(s.I), H = static_cast<size_t>(s.H);
        const size_t columns = Cell::gates * H;
        cleared_ = {{a.dW_xh, I * columns}, {a.dW_hh, H * columns}, {a.db, Cell::biases * H}};
    }
};

class Product : public Case {
public:
    Product(memory::dim m, memory::dim k, memory::dim n, const float* a, const float* b, float* c) {
        const auto a_desc = desc({m, k}, Tag::ab), b_desc = desc({k, n}, Tag::ab), c_desc = desc({m, n}, Tag::ab);
        dnnl::matmul::primitive_desc product(engine_, a_desc, b_desc, c_desc);
        executions_.push_back(
            {dnnl::matmul(product),
             {{DNNL_ARG_SRC, of(a_desc, a)}, {DNNL_ARG_WEIGHTS, of(b_desc, b)}, {DNNL_ARG_DST, of(c_desc, c)}}});
    }
};

Case* guarded(const std::function<Case*()>& make) {
    try {
        return make();
    } catch (const std::exception& error) {
        last_error = error.what();
        return nullptr;
    }
}

}  // namespace

extern "C" {

const char* error() { return last_error.c_str(); }

void version(int* major_minor_patch) {
    const auto* v = dnnl_version();
    major_minor_patch[0] = v->major, major_minor_patch[1] = v->minor, major_minor_patch[2] = v->patch;
}

// cell: 0 plain, 1 LSTM, 2 GRU. Those without c leave the arrays of c alone. nullptr on failure; `error` then says why.
Case* layer(int cell, const long sizes[4], const float* const inputs[9], float* const outputs[9], int training) {
    return guarded([&]() -> Case* {
        const auto& i = inputs;
        const auto& o = outputs;
        const Sizes s{sizes[0], sizes[1], sizes[2], sizes[3]};
        const Arrays a{i[0], i[1], i[2], i[3], i[4], i[5], i[6], i[7], i[8],
                       o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7], o[8]};
        switch (cell) {
            case 0: return new Layer<Plain>(s, a, training != 0);
            case 1: return new Layer<Lstm>(s, a, training != 0);
            default: return new Layer<Gru>(s, a, training != 0);
        }
    });
}

Case* product(const long sizes[3], const float* a, const float* b, float* c) {
    return guarded([&] { return new Product(sizes[0], sizes[1], sizes[2], a, b, c); });
}

int step(Case* c) {
    try {
        c->step();
        return 0;
    } catch (const std::exception& error) {
        last_error = error.what();
        return 1;
    }
}

void release(Case* c) { delete c; }
}
