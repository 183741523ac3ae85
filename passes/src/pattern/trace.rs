//! How far a pattern matches where it does not: the part that was found and the part that was not.

use super::{AttrPattern, Names, Pattern, Value, bind, match_attributes};
use crate::language::EGraph;
use egg::{Id, Language};

/// Where a match ended.
#[derive(Clone, Debug)]
pub(crate) struct Miss {
    /// Operations of the pattern that were found before.
    pub(crate) found: usize,
    /// The part of the pattern that was looked for.
    pub(crate) missing: String,
    /// The value that is not that.
    pub(crate) at: Id,
}

type Bound = Vec<Option<Value>>;

struct Tracer<'a> {
    egraph: &'a EGraph,
    names: &'a Names,
    best: Option<Miss>,
}

/// The miss of the match of a class that gets furthest; `None` where the class matches.
pub(crate) fn furthest(
    egraph: &EGraph,
    names: &Names,
    pattern: &Pattern,
    class: Id,
) -> Option<Miss> {
    let mut tracer = Tracer { egraph, names, best: None };
    let matches = tracer.walk(pattern, class, (vec![None; names.len()], 0));
    if matches.is_empty() { tracer.best } else { None }
}

impl Tracer<'_> {
    fn miss(&mut self, found: usize, missing: impl FnOnce(&Names) -> String, at: Id) {
        if self.best.as_ref().is_none_or(|best| found > best.found) {
            self.best = Some(Miss { found, missing: missing(self.names), at });
        }
    }

    /// All matches, each with the number of operations found so far.
    fn walk(
        &mut self,
        pattern: &Pattern,
        class: Id,
        (bound, found): (Bound, usize),
    ) -> Vec<(Bound, usize)> {
        let class = self.egraph.find(class);
        let (label, name, attrs, children) = match pattern {
            Pattern::Var(var) => {
                let same = bind(bound, *var, Value::Class(class));
                if same.is_none() {
                    self.miss(found, |names| format!("the same `{}` again", names.0[*var]), class);
                }
                return same.into_iter().map(|bound| (bound, found)).collect();
            }
            Pattern::Op { label, name, attrs, children } => (label, name, attrs, children),
        };
        let bound = match label {
            Some(var) => bind(bound, *var, Value::Class(class)),
            None => Some(bound),
        };
        let mut all = vec![];
        for node in &self.egraph[class].nodes {
            let named = node.term.name() == name && node.children.len() == children.len();
            let start = bound.clone().filter(|_| named);
            let Some(start) = start.and_then(|b| match_attributes(node, attrs, b)) else {
                continue;
            };
            let mut partial = vec![(start, found + 1)];
            for (child, id) in children.iter().zip(node.children()) {
                partial = partial.into_iter().flat_map(|p| self.walk(child, *id, p)).collect();
            }
            all.extend(partial);
        }
        if all.is_empty() {
            self.miss(found, |names| format!("`{}`", pattern.show(names)), class);
        }
        all
    }
}

impl Pattern {
    /// The pattern as it is written.
    pub(crate) fn show(&self, names: &Names) -> String {
        let (label, name, attrs, children) = match self {
            Self::Var(var) => return names.0[*var].clone(),
            Self::Op { label, name, attrs, children } => (label, name, attrs, children),
        };
        let label = label.map(|var| format!("{}=", names.0[var])).unwrap_or_default();
        let attr = |a: &AttrPattern| match a {
            AttrPattern::Var(var) => names.0[*var].clone(),
            AttrPattern::Literal(literal) => literal.to_string(),
        };
        let attrs: Vec<String> = attrs.iter().map(attr).collect();
        let attrs =
            if attrs.is_empty() { String::new() } else { format!("[{}]", attrs.join(", ")) };
        let children: Vec<String> = children.iter().map(|c| c.show(names)).collect();
        format!("{label}{name}{attrs}({})", children.join(", "))
    }

    /// Operations that a match has to find.
    pub(crate) fn operations(&self) -> usize {
        match self {
            Self::Var(_) => 0,
            Self::Op { children, .. } => 1 + children.iter().map(Self::operations).sum::<usize>(),
        }
    }
}
