//! The tests of a backend that is there fused and unfused.

/// `on_gpu! { fused: F, unfused: U, accept: A }` for backends F and U, and what is accepted of both.
macro_rules! on_gpu {
    (fused: $fused:ty, unfused: $unfused:ty, accept: $accept:expr) => {
        on_gpu! { module fused, $fused, $accept }
        on_gpu! { module unfused, $unfused, $accept }
    };
    (module $module:ident, $backend:ty, $accept:expr) => {
        mod $module {
            use super::*;

            #[test]
            fn forward_mode() {
                single::forward_mode_in_f32_is_that_in_f64_rounded::<$backend>(&$accept);
            }

            #[test]
            fn second_order() {
                single::second_order_in_f32_is_that_in_f64_rounded::<$backend>(&$accept);
            }

            /// The parameters are rounded to f32 on one side only; their effect is of the same size as the arithmetic's.
            #[test]
            fn a_transformer() {
                single::a_transformer_in_f32_is_that_in_f64_rounded::<$backend>(&$accept);
            }

            /// Softmax of scores that overflow exp in f32.
            #[test]
            fn large_scores_stay_finite() {
                single::large_scores_stay_finite::<$backend>();
            }

            on_gpu! { kernels $backend:
                products_of_any_layout
                softmax
                softmax_of_masked_rows
                softmax_backward
                layer_norm
                layer_norm_backward
                layer_norm_backward_forms_no_more_than_is_read
                linear_cross_entropy
                linear_cross_entropy_forms_no_more_than_is_read
                a_target_that_is_no_class_is_not_overlooked
            }
        }
    };
    (kernels $backend:ty: $($test:ident)*) => {
        $(
            #[test]
            fn $test() {
                kernels::$test::<$backend>();
            }
        )*
    };
}
