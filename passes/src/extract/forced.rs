//! The cheapest kernels under a condition: with one that the plan does not use, or without some.

use super::greedy::{Bias, fixed_point};
use super::instance::Instance;
use super::{Extracted, Problem, search};
use crate::language::Node;
use egg::Id;

/// Ways whose solutions are improved by the search.
const MOST_SEARCHED: usize = 4;

impl Problem<'_> {
    /// The cheapest plan found that uses one of the kernels that are `wanted`; `None` where no
    /// plan can.
    pub(crate) fn solve_with(&self, wanted: &dyn Fn(Id, &Node) -> bool) -> Option<Extracted> {
        let instance = self.instance.as_ref()?;
        let mut found = vec![];
        for (class, (id, nodes)) in self.classes.iter().enumerate() {
            for (at, (node, _)) in nodes.iter().enumerate() {
                let way = (class, at);
                if instance.ways[class][at].cost > 0.0 && wanted(*id, node) {
                    let bias = Bias { forced: Some(way), ..Bias::default() };
                    let choice = fixed_point(instance, &bias);
                    let seconds = instance.seconds_with(&choice, Some(way));
                    found.extend(seconds.map(|seconds| (seconds, way)));
                }
            }
        }
        found.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let searched = found.into_iter().take(MOST_SEARCHED);
        let best = searched.filter_map(|(_, way)| {
            let choice = search::search_with(instance, Some(way))?;
            Some((instance.seconds(&choice)?, choice))
        });
        let (_, choice) = best.min_by(|a, b| a.0.total_cmp(&b.0))?;
        let order = instance.order(&choice)?;
        Some(self.read_off(&choice, &order))
    }

    /// The cheapest plan found that uses none of the kernels that are `refused`; `None` where
    /// every plan does.
    pub(crate) fn seconds_without(&self, refused: &dyn Fn(Id, &Node) -> bool) -> Option<f64> {
        let instance = self.instance.as_ref()?;
        let mut banned = vec![];
        for (class, (id, nodes)) in self.classes.iter().enumerate() {
            let own = nodes.iter().enumerate().filter(|(_, (node, _))| refused(*id, node));
            banned.extend(own.map(|(at, _)| (class, at)));
        }
        let choice = fixed_point(instance, &Bias { banned: banned.clone(), ..Bias::default() });
        let used = instance.order(&choice)?;
        let refused = |class: &usize| banned.contains(&(*class, choice[*class]));
        if used.iter().any(refused) { None } else { instance.seconds(&choice) }
    }
}

impl Instance {
    /// Seconds of a choice that goes in no circle and, where one is given, uses a way.
    pub(super) fn seconds_with(
        &self,
        choice: &super::instance::Choice,
        way: Option<(usize, usize)>,
    ) -> Option<f64> {
        let order = self.order(choice)?;
        let uses = way.is_none_or(|(class, at)| order.contains(&class) && choice[class] == at);
        uses.then(|| order.iter().map(|&class| self.ways[class][choice[class]].cost).sum())
    }
}
