//! Which tokens a masked language model has to predict, and what it sees in their place (Devlin et al. 2018, arXiv 1810.04805).

use serde::{Deserialize, Serialize};

use super::random::{below, stream};

/// How many tenths of the chosen tokens are hidden behind the mask's token.
const HIDDEN: usize = 8;
/// How many tenths are replaced by any token of the vocabulary. The others stay as they are.
const REPLACED: usize = 1;

/// How tokens are masked: a pure function of the seed and the sample's position, so that the loss is one function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Masking {
    /// Id of the mask's token.
    pub token: u32,
    /// Ids that are never chosen: those of [CLS], [SEP], padding and the like. Default: none.
    #[serde(default)]
    pub never: Vec<u32>,
    /// Share of the other tokens that is chosen; one of each sample at least. Default: 0.15.
    #[serde(default = "fifteen_percent")]
    pub share: f64,
    /// Default: 0.
    #[serde(default)]
    pub seed: u64,
}

fn fifteen_percent() -> f64 {
    0.15
}

impl Masking {
    /// How many of so many tokens are chosen.
    pub fn count(&self, candidates: usize) -> usize {
        ((self.share * candidates as f64).round() as usize).max(1).min(candidates)
    }

    /// Masks the tokens of the sample at a position, and gives (place in the sample, token that was there) of the chosen ones, in order;
    /// none where every token is one of `never`.
    pub fn apply(&self, position: usize, tokens: &mut [u32], vocabulary: usize) -> Vec<(usize, u32)> {
        let mut places: Vec<usize> = (0..tokens.len()).filter(|at| !self.never.contains(&tokens[*at])).collect();
        let mut random = stream("hesspec masked tokens", self.seed, position);
        for at in 0..self.count(places.len()) {
            let other = at + below(&mut random, places.len() - at);
            places.swap(at, other);
        }
        places.truncate(self.count(places.len()));
        places.sort_unstable();
        let chosen: Vec<(usize, u32)> = places.into_iter().map(|at| (at, tokens[at])).collect();
        for (at, _) in &chosen {
            match below(&mut random, 10) {
                draw if draw < HIDDEN => tokens[*at] = self.token,
                draw if draw < HIDDEN + REPLACED => tokens[*at] = below(&mut random, vocabulary) as u32,
                _ => {}
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCABULARY: usize = 1000;
    const MASKING: Masking = Masking { token: 999, never: Vec::new(), share: 0.15, seed: 3 };

    #[test]
    fn a_sample_is_masked_by_its_position_alone() {
        let masking = Masking { never: vec![7], ..MASKING };
        let tokens: Vec<u32> = (0..40).collect();
        let masked = |masking: &Masking, position| {
            let mut seen = tokens.clone();
            let chosen = masking.apply(position, &mut seen, VOCABULARY);
            (seen, chosen)
        };
        assert_eq!(masked(&masking, 5), masked(&masking, 5));
        assert_ne!(masked(&masking, 5), masked(&masking, 6));
        assert_ne!(masked(&masking, 5), masked(&Masking { seed: 4, ..masking.clone() }, 5));
        for position in 0..200 {
            let (seen, chosen) = masked(&masking, position);
            assert_eq!(chosen.len(), 6, "0.15 of 39 tokens");
            assert!(chosen.windows(2).all(|pair| pair[0].0 < pair[1].0));
            assert!(chosen.iter().all(|(at, token)| tokens[*at] == *token && *token != 7));
            let places: Vec<usize> = chosen.iter().map(|(at, _)| *at).collect();
            assert!((0..40).filter(|at| !places.contains(at)).all(|at| seen[at] == tokens[at]));
        }
    }

    /// Counts of n draws with probability p, within five standard deviations sqrt(n p (1 - p)).
    #[test]
    fn eight_tenths_are_hidden_and_one_tenth_is_replaced() {
        let [mut hidden, mut kept, mut total, mut at_start] = [0usize; 4];
        for position in 0..2000 {
            let tokens: Vec<u32> = (0..20).collect();
            let mut seen = tokens.clone();
            for (at, token) in MASKING.apply(position, &mut seen, VOCABULARY) {
                hidden += usize::from(seen[at] == MASKING.token);
                kept += usize::from(seen[at] == token);
                at_start += usize::from(at == 0);
                total += 1;
            }
        }
        assert_eq!(total, 6000);
        let near = |count: usize, n: f64, p: f64| (count as f64 - n * p).abs() < 5.0 * (n * p * (1.0 - p)).sqrt();
        assert!(near(hidden, 6000.0, 0.8 + 0.1 / 1000.0), "{hidden}");
        assert!(near(kept, 6000.0, 0.1 + 0.1 / 1000.0), "{kept}");
        assert!(near(at_start, 2000.0, 0.15), "{at_start}");
    }

    #[test]
    fn one_token_is_chosen_at_least_and_none_that_may_not() {
        assert_eq!(MASKING.apply(0, &mut [1, 2], VOCABULARY).len(), 1);
        assert_eq!(Masking { share: 1.0, ..MASKING }.apply(0, &mut [1, 2], VOCABULARY), [(0, 1), (1, 2)]);
        assert_eq!(Masking { never: vec![1], ..MASKING }.apply(0, &mut [1, 1], VOCABULARY), []);
    }
}
