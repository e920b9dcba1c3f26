//! The tables of a run. Columns, types and nullability are a contract: adding one is free, renaming one breaks readers
//! and raises [`SCHEMA_VERSION`].

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Field;

use super::column::{Cell, EachTable, Table, TableDescription, column, description, field, text};

/// Version of the schema below, written into every part and into the run's record.
pub const SCHEMA_VERSION: u32 = 1;

/// Tables that only a command of their own writes: a run of `hesspec run` has not even an empty part of them.
pub const APART: [&str; 7] =
    ["quadratic", "quadratic_blocks", "quadratic_curves", "quadratic_trials", "dense", "dense_blocks", "dense_shares"];

tables! {
    /// One block of the network, in network order.
    BlockRow = blocks {
        /// Unique name of the block.
        block: String,
        /// `full`, `layer`, `module`, or the parameter's role: the end of its name, `q.weight`, with `/head` where it is cut by heads.
        kind: String,
        /// Layer number from 0, where the block belongs to one.
        layer: Option<i32>,
        /// Shape of the block as text, `[768, 768]`; of several tensors, how many: `4 tensors`.
        shape: String,
        /// Dimension of the block's Hessian.
        num_params: i64,
        /// First index in the network's flat order.
        offset: i64,
    }

    /// One Lanczos step of one probe.
    TridiagonalRow = tridiagonal {
        /// Block name.
        block: String,
        /// Probe number from 0.
        probe: i32,
        /// Step number from 1.
        step: i32,
        /// Diagonal entry of this step.
        alpha: f64,
        /// Norm *after* this step: the off-diagonal entry to the next one; 0 on breakdown.
        beta: f64,
        /// Largest |v_i . v_{j+1}| of the vector that this step made with all earlier ones, as estimated without a further pass
        /// over them; 0 on breakdown, where there is none.
        orthogonality_loss: f64,
        /// Wall seconds of this step.
        seconds: f64,
    }

    /// One step of one of the short recursions that follow a probe's own, in the complement of its converged eigenvectors;
    /// with `lanczos.weights = "deflated"`.
    ComplementRow = complement {
        /// Block name.
        block: String,
        /// Probe number from 0.
        probe: i32,
        /// Number of the start vector from 0.
        start: i32,
        /// Step number from 1.
        step: i32,
        /// Diagonal entry of this step.
        alpha: f64,
        /// Norm *after* this step; 0 on breakdown.
        beta: f64,
        /// As in `tridiagonal`, of this recursion's vectors.
        orthogonality_loss: f64,
        /// Wall seconds of this step.
        seconds: f64,
    }

    /// One Ritz value of one probe.
    NodeRow = nodes {
        /// Block name.
        block: String,
        /// Probe number from 0.
        probe: i32,
        /// Number from 0, by ascending node.
        node_index: i32,
        /// Eigenvalue of T.
        node: f64,
        /// Squared first component of its eigenvector; sums to 1 over a probe.
        weight: f64,
        /// Variance-reduced or deflated weight, where asked for.
        weight_reduced: Option<f64>,
        /// |beta_{m+1} s_mi|: an eigenvalue of H lies within this distance, or within the block's noise floor, whichever is larger.
        residual_bound: f64,
        /// Whether the bound is small against the spectral range.
        converged: bool,
        /// Whether |node| is below three times the error of the product.
        below_noise_floor: bool,
    }

    /// The smoothed density of a block at one grid point.
    DensityRow = density {
        /// Block name.
        block: String,
        /// `asinh` or `linear`.
        axis: String,
        /// Position on the axis.
        coordinate: f64,
        /// The eigenvalue at this position of the axis.
        eigenvalue: f64,
        /// Mean over probes, per unit of *coordinate*.
        density: f64,
        /// Mean over probes, per unit of eigenvalue; at least the smallest normal number. Null in tables of earlier versions.
        density_per_eigenvalue: Option<f64>,
        /// Standard error of the mean over probes, times Student's t for as many, so that one error holds 68 %; null with one
        /// probe.
        sem: Option<f64>,
        /// lambda_c: coordinate = asinh(eigenvalue / lambda_c), one for all blocks of the run and for `js`; null on a linear axis.
        axis_scale: Option<f64>,
        /// Standard deviation of the Gaussian on every node, in units of the coordinate. Null in tables of earlier versions.
        sigma: Option<f64>,
    }

    /// The distance of an unordered pair of blocks, `block_a` before `block_b` in network order, diagonal included.
    DivergenceRow = divergence {
        /// `wasserstein1_energy`, `js`, `wasserstein1`, `symkl_paper` or a variant.
        metric: String,
        /// The block that comes first.
        block_a: String,
        /// The other one, or the same.
        block_b: String,
        /// The distance; null where it is not defined (`status` says why).
        value: Option<f64>,
        /// Standard error over both blocks' probes by leave-one-out (jackknife), times Student's t for as many probes, so that
        /// one error holds 68 %; null with one probe.
        sem: Option<f64>,
        /// One standard deviation that covers steps (from shorter pieces of the same recursions), probes (from redrawn weights, also
        /// for one) and, where `segments` are kept, data; null for `symkl_paper` and in tables of earlier versions.
        error: Option<f64>,
        /// What two halves of one block's probes differ by; null with one probe.
        noise_floor: Option<f64>,
        /// lambda_c of the axis that a `js` value holds on; null where there is none.
        axis_scale: Option<f64>,
        /// Kernel width on that axis that a `js` value holds at; null where there is none.
        sigma: Option<f64>,
        /// `ok`, or what happened and what to do. `not_told_apart`: value - 2 error does not exceed the noise floor, so that the two
        /// blocks may as well be equal.
        status: String,
    }

    /// One block in numbers.
    SummaryRow = summary {
        /// Block name.
        block: String,
        /// d mean(alpha_1).
        trace: f64,
        /// Standard error of the trace from the randomness of the n probes, known from the spectrum, so that one probe has one too:
        /// sqrt(2 (|H|_F^2 - trace^2 / d) / n) for Gaussian probes, a bound of it for Rademacher ones; |H|_F^2 as the probes see
        /// it, every converged eigenvalue counted at least once; and, added in squares, sqrt(d) noise floors.
        trace_sem: Option<f64>,
        /// Frobenius norm of the block's Hessian.
        frobenius: f64,
        /// Smallest node.
        lambda_min: f64,
        /// How far an eigenvalue may be from `lambda_min`: its residual bound, or the noise floor where that is larger.
        lambda_min_residual_bound: f64,
        /// Largest node.
        lambda_max: f64,
        /// How far an eigenvalue may be from `lambda_max`: its residual bound, or the noise floor where that is larger.
        lambda_max_residual_bound: f64,
        /// Share of the spectrum below minus the noise floor (sum of the weights of these nodes, mean over probes): within it a
        /// sign means nothing.
        negative_mass: f64,
        /// Share of the squared Frobenius norm, sum of weight * node^2, at nodes below minus the noise floor; null for a zero
        /// block and in tables of earlier versions.
        negative_energy: Option<f64>,
        /// Three times the error of one product with a unit vector: nodes below this are noise.
        noise_floor: f64,
        /// Lanczos steps done (fewer than asked for after a breakdown).
        steps_done: i32,
        /// `ok`, or what happened and what to do.
        status: String,
    }

    /// One entry (i, j) of P_s = V^T H_s V for one segment s of the batch.
    SegmentRow = segments {
        /// Block name.
        block: String,
        /// Probe number from 0.
        probe: i32,
        /// Segment number from 0.
        segment: i32,
        /// Row, from 1.
        i: i32,
        /// Column, from 1 and at most `i`: the matrix is symmetric.
        j: i32,
        /// The entry.
        value: f64,
    }

    /// The run as a whole.
    RunRow = runs {
        /// Resolved configuration, as JSON; under `used`, what was chosen beyond it.
        config: String,
        /// Versions of the program and its libraries, as JSON.
        versions: String,
        /// Number of ranks of the call that finished the run.
        world: i32,
        /// Accelerator where there is one, processor, threads; of rank 0.
        hardware: String,
        /// Matmul precision as measured, not as asked for.
        matmul_precision: String,
        /// When the call that finished the run began (RFC 3339, UTC).
        started: String,
        /// When it ended (RFC 3339, UTC).
        finished: String,
        /// Seconds that this call took; of a study of nested batches, those of all its batches' last calls.
        seconds: f64,
        /// `done`, or why a study of nested batches ended before its largest, or what its errors lack.
        status: String,
    }

    /// One Lanczos step of a group, as rank 0 sees it. Steps that an interrupted call had done are missing.
    MetricsRow = metrics {
        /// Group, named after its first (block, probe) pair.
        group: String,
        /// Step number from 1.
        step: i32,
        /// (block, probe) pairs that took part.
        slots: i32,
        /// Wall seconds of the step, all slots together.
        seconds: f64,
        /// Seconds of passes over micro-batches, primal and tangents together.
        seconds_products: f64,
        /// Exchange between ranks, the wait for slower ones included.
        seconds_reduction: f64,
        /// Gram-Schmidt, norms, segment rows.
        seconds_reorthogonalization: f64,
        /// Checkpoints.
        seconds_io: f64,
        /// Predicted tokens per second, all ranks together.
        tokens_per_second: f64,
        /// Products H v over the whole batch per second, all slots and ranks together.
        products_per_second: f64,
    }

    /// One block seen by one of several nested batches. Errors are bootstrap errors over the batch's segments; `previous` is
    /// the next smaller batch, `largest` the largest that was computed; null where there is none. Raw weights; one axis
    /// and sigma for all batches and blocks.
    ConvergenceRow = convergence {
        /// Block name.
        block: String,
        /// Predicted tokens of the batch.
        tokens: i64,
        /// Name of the run that has the batch's own tables.
        batch: String,
        /// Segments of the batch.
        segments: i32,
        /// Wasserstein-1 distance from the same block's spectrum in the previous batch.
        w1_previous: Option<f64>,
        /// Wasserstein-1 distance from the largest batch.
        w1_largest: Option<f64>,
        /// Root mean square of W1 between the batch's spectrum and those of resampled batches.
        w1_error: f64,
        /// Jensen-Shannon distance (`js`) from the previous batch.
        js_previous: Option<f64>,
        /// Jensen-Shannon distance (`js`) from the largest batch.
        js_largest: Option<f64>,
        /// Root mean square of js between the batch's spectrum and those of resampled batches.
        js_error: f64,
        /// d mean(alpha_1).
        trace: f64,
        /// Its error.
        trace_error: f64,
        /// Frobenius norm.
        frobenius: f64,
        /// Its error.
        frobenius_error: f64,
        /// Share of the squared Frobenius norm that is sampling noise of this batch, as its fall since the previous batch
        /// shows: |H_n|^2 = |H|^2 + c / n in expectation. About 0 where tokens are enough, about 1 where they are far too few;
        /// an estimate that is not cut off, so that chance may take it below 0 or above 1. Null without a previous batch and
        /// for a block without curvature above its noise floor.
        noise_share: Option<f64>,
        /// Smallest node.
        lambda_min: f64,
        /// Its error, at least the noise floor.
        lambda_min_error: f64,
        /// Largest node.
        lambda_max: f64,
        /// Its error, at least the noise floor.
        lambda_max_error: f64,
        /// `ok`, or what happened and what to do.
        status: String,
    }

    /// The distance between two blocks as one of several nested batches sees it; each unordered pair of different blocks
    /// once, the whole network left out.
    ConvergencePairRow = convergence_pairs {
        /// The block that comes first.
        block_a: String,
        /// The other one.
        block_b: String,
        /// Predicted tokens of the batch.
        tokens: i64,
        /// Jensen-Shannon distance.
        js: f64,
        /// Its bootstrap error over segments.
        js_error: f64,
        /// Wasserstein-1 distance.
        wasserstein1: f64,
        /// Its bootstrap error over segments.
        wasserstein1_error: f64,
    }

    /// One block of one member of a series: a checkpoint of a training run, or a seed. The columns are those of the member's `summary`.
    SeriesRow = series {
        /// The member, `step 400` or `seed 2`.
        label: String,
        /// Its step or seed.
        number: i64,
        /// Name of the run that has the member's own tables.
        member: String,
        /// Block name.
        block: String,
        /// d mean(alpha_1).
        trace: f64,
        /// Its standard error from the probes.
        trace_error: Option<f64>,
        /// Frobenius norm of the block's Hessian.
        frobenius: f64,
        /// Smallest node.
        lambda_min: f64,
        /// How far an eigenvalue may be from it.
        lambda_min_error: f64,
        /// Largest node.
        lambda_max: f64,
        /// How far an eigenvalue may be from it.
        lambda_max_error: f64,
        /// Share of the spectrum below minus the noise floor.
        negative_mass: f64,
        /// Share of the squared Frobenius norm below minus the noise floor; null for a zero block.
        negative_energy: Option<f64>,
        /// `ok`, or what happened and what to do.
        status: String,
    }

    /// How far a block's spectra in two members of a series lie apart: each member beside the next, and beside the last. One axis for all
    /// blocks of all members.
    SeriesDistanceRow = series_distances {
        /// Block name.
        block: String,
        /// Metric, as in `divergence`.
        metric: String,
        /// The earlier member.
        label_a: String,
        /// The later member.
        label_b: String,
        /// Step or seed of the earlier member.
        number_a: i64,
        /// Step or seed of the later member.
        number_b: i64,
        /// The distance; null where it is not defined (`status` says why).
        value: Option<f64>,
        /// One standard deviation, as in `divergence`.
        error: Option<f64>,
        /// What two halves of one block's probes differ by; null with one probe.
        noise_floor: Option<f64>,
        /// lambda_c of the axis that a `js` value holds on; null where there is none.
        axis_scale: Option<f64>,
        /// Kernel width on that axis that a `js` value holds at; null where there is none.
        sigma: Option<f64>,
        /// `ok`, or what happened and what to do.
        status: String,
    }

    /// How far the blocks of one member of a series lie from one another, on the member's own axis: the paper's heterogeneity, JS0 at
    /// initialisation.
    SeriesPairRow = series_pairs {
        /// The member.
        label: String,
        /// Its step or seed.
        number: i64,
        /// Metric, as in `divergence`.
        metric: String,
        /// Mean over pairs of different blocks for which it is defined; null where there is none.
        mean: Option<f64>,
        /// Mean of the pairs' errors: a bound of the mean's error.
        mean_error: Option<f64>,
        /// Largest distance of a pair.
        largest: Option<f64>,
        /// Pairs in the mean.
        num_pairs: i32,
    }

    /// One converged eigenvector of a block, as the block's first probe finds it; with `[eigenvectors]`.
    EigenvectorRow = eigenvectors {
        /// Block name.
        block: String,
        /// Number from 0, by falling |eigenvalue|: the `i` of `name@i` in the file.
        index: i32,
        /// Its eigenvalue (a node of probe 0).
        eigenvalue: f64,
        /// |beta_{m+1} s_mi|, as in `nodes`: |H u - eigenvalue u| but for the error of products, which the noise floor bounds.
        residual_bound: f64,
        /// Estimate of the sine of the angle between the vector and the eigenvector: the residual bound, or the noise floor where
        /// that is larger, over the distance to the nearest other node of the probe; at most 1. Eigenvalues that lie together more
        /// closely than the probe can tell apart, equal ones among them, are one node: any vector of their space may be here.
        angle: f64,
        /// |<g, u>| / |g| with the gradient g of the batch's loss in the block; null for a gradient of zero.
        gradient_overlap: Option<f64>,
        /// Path of the file with the block's vectors, below the output's URL.
        file: String,
    }

    /// Where an eigenvector lies: its share in one parameter of the block. The shares of a vector sum to 1.
    EigenvectorMassRow = eigenvector_mass {
        /// Block name.
        block: String,
        /// Number of the eigenvector, as in `eigenvectors`.
        index: i32,
        /// Parameter name.
        parameter: String,
        /// Sum of its squared entries in the parameter.
        mass: f64,
    }

    /// A sum over the diagonal of a block's Hessian, as its probes estimate it; with `[diagonal]`.
    DiagonalRow = diagonal {
        /// Block name.
        block: String,
        /// Parameter, or part of a fused one, called as the blocks of the partition `parameter`.
        part: String,
        /// `part`: all of it; `row` of a matrix as it is stored; `neuron`: one of a layer's outputs; `head` of attention.
        kind: String,
        /// Number of the row, neuron or head in the part, from 0; 0 for the part itself.
        index: i32,
        /// Entries of the block that are summed.
        num_entries: i64,
        /// Mean over probes of the sum of d v_i (H v)_i, v the normalised probe, d the block's dimension.
        value: f64,
        /// Standard error of the mean, times Student's t for as many probes, so that one error holds 68 %; null with one probe.
        error: Option<f64>,
    }

    /// What one probe adds to a row of `diagonal`.
    DiagonalProbeRow = diagonal_probes {
        /// Block name.
        block: String,
        /// Probe number from 0.
        probe: i32,
        /// As in `diagonal`.
        part: String,
        /// As in `diagonal`.
        kind: String,
        /// As in `diagonal`.
        index: i32,
        /// As in `diagonal`.
        num_entries: i64,
        /// Sum of d v_i (H v)_i, from H v = alpha_1 v_1 + beta_2 v_2.
        value: f64,
    }

    /// One step of a training; with `hesspec train`.
    TrainingRow = training {
        /// Step number from 1.
        step: i64,
        /// Samples that were drawn so far, this step's among them: windows, images, pairs.
        samples: i64,
        /// Learning rate of the step.
        learning_rate: f64,
        /// Mean loss over the step's samples, before its update.
        loss: f64,
        /// Euclidean norm of the gradient of this loss, before it is clipped.
        gradient_norm: f64,
        /// Whether it was scaled down to `train.clip`.
        clipped: bool,
        /// Mean loss over the held-out samples, after the update; null in steps that do not look at them.
        held_out_loss: Option<f64>,
        /// Share of the held-out samples whose class is found, after the update; null where there are no classes as well.
        held_out_accuracy: Option<f64>,
        /// Wall seconds of the step, without what is held out.
        seconds: f64,
    }

    /// One quantity over all trials of `hesspec quadratic`.
    QuadraticRow = quadratic {
        /// As in `quadratic_trials`.
        quantity: String,
        /// Block name; null for a quantity of the whole problem.
        block: Option<String>,
        /// Trials that have the quantity.
        trials: i64,
        /// Those of them in which it has no value: the accuracy was not reached. They count as infinite below.
        missing: i64,
        /// Quartile below the median, by linear interpolation; null where infinite.
        lower_quartile: Option<f64>,
        /// Median; null where infinite.
        median: Option<f64>,
        /// Quartile above the median; null where infinite.
        upper_quartile: Option<f64>,
        /// Mean: for a quantity that is 0 or 1, its share of the trials. Null where infinite.
        mean: Option<f64>,
        /// Largest; null where infinite.
        max: Option<f64>,
    }

    /// One entry of the quadratic problem of the first trial.
    QuadraticBlockRow = quadratic_blocks {
        /// Block name.
        block: String,
        /// Number from 0.
        index: i32,
        /// Eigenvalue of the block's Hessian, ascending.
        eigenvalue: f64,
        /// Entry of the start w0.
        start: f64,
        /// Entry of the gradient H w0.
        gradient: f64,
    }

    /// The loss of the first trial's problem after one iteration of one optimizer.
    QuadraticCurveRow = quadratic_curves {
        /// `gd`, `blockwise_gd`, `adam` with a rate of the grid, or `adam_theory` with the rate of Theorem 2.
        optimizer: String,
        /// Adam's beta2; null for gradient descent.
        beta2: Option<f64>,
        /// The learning rate; null where each block has its own.
        learning_rate: Option<f64>,
        /// Whether it is the best rate of the grid for this beta2: the first to reach the accuracy, else the lowest last loss.
        is_best: bool,
        /// Number of iterations done; not every one is listed.
        iteration: i64,
        /// The loss.
        loss: f64,
        /// What theory says that the loss does not exceed, as corrected; null where it says nothing.
        bound: Option<f64>,
        /// The bound as it is printed in the paper; null where it says nothing else.
        bound_as_printed: Option<f64>,
    }

    /// One quantity in one trial of `hesspec quadratic`.
    QuadraticTrialRow = quadratic_trials {
        /// Number from 0.
        trial: i32,
        /// What it is; the documentation of the command lists them.
        quantity: String,
        /// Block name; null for a quantity of the whole problem.
        block: Option<String>,
        /// Its value; null where the accuracy was not reached.
        value: Option<f64>,
    }

    /// A row of a dense Hessian.
    DenseRow = dense {
        /// Block name.
        block: String,
        /// Row number from 0, in the block's flat order.
        row: i64,
        /// All entries of the row.
        values: Vec<f64>,
    }

    /// A dense Hessian in numbers.
    DenseBlockRow = dense_blocks {
        /// Block name.
        block: String,
        /// Rows, and columns.
        num_params: i64,
        /// |H|_F.
        frobenius: f64,
        /// |H - H'|_F / |H|_F, rounding; null for a zero block.
        asymmetry: Option<f64>,
        /// Parts that it is cut into, see `dense_shares`.
        parts: i32,
        /// Share of the squared Frobenius norm that lies between different parts; null for a zero block.
        off_diagonal: Option<f64>,
        /// Number k of |eigenvalues| above 1e-6 of the largest, or above a thousand roundings of it; null for more than 1,500
        /// parameters and without curvature.
        rank: Option<i64>,
        /// Largest |eigenvalue| over the k-th largest; null as `rank`.
        kappa: Option<f64>,
        /// Condition number of D^-1/2 H D^-1/2, D = diag(|gradient|), with the same k; null as `rank`.
        kappa_adam: Option<f64>,
        /// `ok`, or what happened and what to do.
        status: String,
    }

    /// How much of a dense Hessian lies between two of its parts.
    DenseShareRow = dense_shares {
        /// Block name.
        block: String,
        /// A part of the block's parameters.
        part_a: String,
        /// Another one that does not come before it, or the same.
        part_b: String,
        /// Index of the part's first entry in the block's flat order, from 0.
        first_a: i64,
        /// Index of the other part's first entry in the block's flat order, from 0.
        first_b: i64,
        /// Entries of H between the parts, on both sides of the diagonal.
        num_entries: i64,
        /// Sum of their squares.
        frobenius_squared: f64,
        /// That sum as a share of the block's squared Frobenius norm; null for a zero block.
        share: Option<f64>,
    }
}
