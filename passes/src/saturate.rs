//! Equality saturation: all rules, everywhere, until nothing is new.
//!
//! Before: the e-graph holds a function. After: it holds every form of it that the rules know,
//! or as many as the limits allow. The order of rules and classes is fixed and no clock is
//! read (egg's own runner stops by time), so the same function always gives the same e-graph.

use crate::language::EGraph;
use crate::pattern::Rewriter;
use crate::rules::{Rule, Site};

/// When saturation stops at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes of one function's e-graph.
    pub nodes: usize,
    /// Times that all rules are applied.
    pub iterations: usize,
}

impl Default for Limits {
    /// Forty times what DeepSeek-V3's layers need.
    fn default() -> Self {
        Self { nodes: 40_000, iterations: 32 }
    }
}

/// How saturation went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saturation {
    /// Times that all rules were applied.
    pub(crate) iterations: usize,
    /// Whether nothing was new in the end; a limit was reached otherwise.
    pub(crate) saturated: bool,
    /// The first iteration in which each rule, by its place in the list, made two classes one.
    pub(crate) fired: Vec<Option<usize>>,
}

/// Applies rules until nothing is new or a limit is reached.
pub(crate) fn saturate(egraph: &mut EGraph, rules: &[&Rule], limits: Limits) -> Saturation {
    let mut fired = vec![None; rules.len()];
    egraph.rebuild();
    for iteration in 0..limits.iterations {
        let before = egraph.total_size();
        let sites: Vec<Vec<Site>> = rules.iter().map(|rule| rule.search(egraph)).collect();
        let mut unions = 0;
        for (at, (rule, sites)) in rules.iter().zip(&sites).enumerate() {
            let mut rewriter = Rewriter::new(egraph);
            for site in sites {
                rule.apply(&mut rewriter, site);
            }
            if rewriter.unions > 0 {
                fired[at].get_or_insert(iteration);
            }
            unions += rewriter.unions;
        }
        egraph.rebuild();
        if unions == 0 && egraph.total_size() == before {
            return Saturation { iterations: iteration, saturated: true, fired };
        }
        if egraph.total_number_of_nodes() > limits.nodes {
            return Saturation { iterations: iteration + 1, saturated: false, fired };
        }
    }
    Saturation { iterations: limits.iterations, saturated: false, fired }
}
