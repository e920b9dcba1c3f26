//! `[eigenvectors]` and `[diagonal]`: what is formed from the Lanczos bases, when a group of them is done.

use serde::{Deserialize, Serialize};

use crate::models::cells::CellKind;

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

/// `[diagonal]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Diagonal {
    /// Over what the diagonal is summed. Default: all four.
    pub by: Vec<CellKind>,
}

impl Default for Diagonal {
    fn default() -> Self {
        Self { by: vec![CellKind::Part, CellKind::Row, CellKind::Neuron, CellKind::Head] }
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
        assert!(
            with("[eigenvectors]\n", &["checkpoint.basis=\"none\""]).is_ok(),
            "a group that begins again has its basis"
        );
    }

    #[test]
    fn the_diagonal_is_asked_for_by_its_table() {
        assert_eq!(with("", &[]).unwrap().diagonal, None);
        let config = with("[diagonal]\n", &[]).unwrap();
        assert_eq!(config.diagonal.as_ref().map(|diagonal| diagonal.by.len()), Some(4));
        let [plain, asked] = [with("", &[]).unwrap(), config].map(|config| config.resolved_json().unwrap());
        assert_eq!(crate::config::differences(&plain, &asked).len(), 1, "it is another run");
        assert_refused("[diagonal]\nby = []\n", &[], &["diagonal.by", "at least one"]);
        assert_refused("[diagonal]\nby = [\"row\", \"row\"]\n", &[], &["diagonal.by", "once"]);
        assert_refused("[diagonal]\nby = [\"rows\"]\n", &[], &["diagonal.by[0]", "did you mean `row`?"]);
        let three_terms = "lanczos.reorthogonalize=\"none\"";
        assert_refused("[diagonal]\n", &[three_terms], &["lanczos.reorthogonalize", "[diagonal]", "\"full\""]);
        assert_refused("[diagonal]\n", &["lanczos.steps=1"], &["lanczos.steps = 1", "[diagonal]", "2 or more"]);
    }

    #[test]
    fn eigenvectors_without_a_basis_are_refused() {
        let three_terms = "lanczos.reorthogonalize=\"none\"";
        assert_refused("[eigenvectors]\n", &[three_terms], &["lanczos.reorthogonalize", "[eigenvectors]", "\"full\""]);
        assert_refused("[eigenvectors]\ncount = 0\n", &[], &["eigenvectors.count = 0", "1 or more"]);
        assert_refused("[eigenvectors]\ncount = 20000\n", &[], &["eigenvectors.count = 20000", "10000 or less"]);
        assert_refused("[eigenvectors]\ncounts = 1\n", &[], &["eigenvectors.counts", "did you mean `count`?"]);
    }
}
