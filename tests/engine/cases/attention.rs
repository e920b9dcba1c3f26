//! Attention with every option.

use burn_backend::Backend;
use burn_backend::ops::AttentionModuleOptions;

use super::{Table, bools};
use crate::values::{Values, real, unit};

const PLAIN: AttentionModuleOptions = AttentionModuleOptions { scale: None, softcap: None, is_causal: false };
const CAUSAL: AttentionModuleOptions = AttentionModuleOptions { is_causal: true, ..PLAIN };

/// Query, key and value: two heads, widths 3 (query, key) and 2 (value).
fn inputs(queries: usize, keys: usize) -> [Values; 3] {
    [real([1, 2, queries, 3]), unit([1, 2, keys, 3]), real([1, 2, keys, 2])]
}

fn with_bias(queries: usize, keys: usize) -> [Values; 4] {
    let [q, k, v] = inputs(queries, keys);
    [q, k, v, unit([1, 2, queries, keys])]
}

/// Masks (true) for two heads, three queries, four keys; no row is masked altogether.
const MASK: [i64; 24] = [1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0, 1];

pub fn cases<B: Backend>(t: &mut Table<B>) {
    t.three("attention", inputs(3, 3), |q, k, v| B::attention(q, k, v, None, None, PLAIN));
    t.three("attention causal", inputs(4, 4), |q, k, v| B::attention(q, k, v, None, None, CAUSAL));
    t.three("attention not square", inputs(3, 4), |q, k, v| B::attention(q, k, v, None, None, PLAIN));
    t.three("attention causal, more keys than queries", inputs(2, 4), |q, k, v| {
        B::attention(q, k, v, None, None, CAUSAL)
    });
    t.three("attention scaled", inputs(3, 3), |q, k, v| {
        B::attention(q, k, v, None, None, AttentionModuleOptions { scale: Some(0.9), ..PLAIN })
    });
    t.three("attention masked", inputs(3, 4), |q, k, v| {
        B::attention(q, k, v, Some(bools::<B, 4>([1, 2, 3, 4], &MASK)), None, PLAIN)
    });
    t.four("attention biased", with_bias(3, 4), |q, k, v, bias| B::attention(q, k, v, None, Some(bias), PLAIN));
    t.four("attention biased, causal, masked", with_bias(3, 4), |q, k, v, bias| {
        B::attention(q, k, v, Some(bools::<B, 4>([1, 2, 3, 4], &MASK)), Some(bias), CAUSAL)
    });
    t.three("attention softcap", inputs(3, 3), |q, k, v| {
        B::attention(q, k, v, None, None, AttentionModuleOptions { softcap: Some(1.5), ..CAUSAL })
    });
    t.own("divides by the cap: burn rounds 1 / c to f32");
    t.four("attention softcap and bias", with_bias(3, 3), |q, k, v, bias| {
        B::attention(q, k, v, None, Some(bias), AttentionModuleOptions { softcap: Some(1.5), ..PLAIN })
    });
    t.own("divides by the cap: burn rounds 1 / c to f32");
}
