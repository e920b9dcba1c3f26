//! `[eigenvectors]` and `[diagonal]`: what is formed from the Lanczos bases, when a group of them is done.

use serde::{Deserialize, Serialize};

/// `[eigenvectors]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Eigenvectors {
    /// Most eigenvectors of each block: the converged ones with the largest |eigenvalue|. Default: 10.
    pub count: usize,
}

impl Default for Eigenvectors {
    fn default() -> Self {
        Self { count: 10 }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;
    use crate::config::tests::{assert_refused, with};
    use crate::networks::Registry;

    #[test]
    fn eigenvectors_are_asked_for_by_their_table() {
        assert_eq!(with("", &[]).unwrap().eigenvectors, None);
        assert!(with("", &[]).unwrap().resolved_json().unwrap().get("eigenvectors").is_none());
        let config = with("[eigenvectors]\n", &[]).unwrap();
        assert_eq!(config.eigenvectors.map(|eigenvectors| eigenvectors.count), Some(10));
        let written = config.resolved_toml().unwrap();
        assert_eq!(parse(&written, "again.toml", "again", &[], &Registry::built_in()).unwrap(), config);
        let other = with("", &["eigenvectors.count=3"]).unwrap();
        assert_eq!(other.eigenvectors.map(|eigenvectors| eigenvectors.count), Some(3));
        assert!(with("[eigenvectors]\n", &["checkpoint.basis=\"none\""]).is_ok(), "a group that begins again has its basis");
    }

    #[test]
    fn eigenvectors_without_a_basis_are_refused() {
        let three_terms = "lanczos.reorthogonalize=\"none\"";
        assert_refused("[eigenvectors]\n", &[three_terms], &["lanczos.reorthogonalize", "[eigenvectors]", "\"full\""]);
        assert_refused("[eigenvectors]\ncount = 0\n", &[], &["eigenvectors.count = 0", "1 or more"]);
        assert_refused("[eigenvectors]\ncount = 20000\n", &[], &["eigenvectors.count = 20000", "10000 or less"]);
        assert_refused("[eigenvectors]\ncuont = 1\n", &[], &["eigenvectors.cuont", "did you mean `count`?"]);
    }
}
