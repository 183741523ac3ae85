//! The e-graph as extraction sees it: numbered classes, nodes with costs, nothing else.

use super::instance::{Choice, Instance, Way};
use super::{ChosenValue, Extracted};
use crate::cost::{CostModel, Estimate};
use crate::language::{EGraph, Node, needs};
use egg::Id;
use std::collections::{BTreeMap, BTreeSet};

/// What to extract.
pub(crate) struct Problem<'a> {
    egraph: &'a EGraph,
    names: &'a BTreeMap<Id, String>,
    /// The classes that kernels can compute, by number, and the node and cost of each way.
    pub(super) classes: Vec<(Id, Vec<(Node, Estimate)>)>,
    /// The same in numbers; `None` where an output cannot be computed.
    pub(super) instance: Option<Instance>,
    outputs: Vec<Id>,
}

impl<'a> Problem<'a> {
    /// The problem of computing some classes.
    pub(crate) fn new(
        egraph: &'a EGraph,
        names: &'a BTreeMap<Id, String>,
        outputs: &[Id],
        cost: &CostModel,
    ) -> Self {
        let mut costs: BTreeMap<Id, Vec<(&Node, Estimate)>> = BTreeMap::new();
        for class in egraph.classes() {
            let mut nodes: Vec<(&Node, Estimate)> = class
                .nodes
                .iter()
                .filter_map(|n| cost.node(egraph, class.id, n).map(|c| (n, c)))
                .collect();
            nodes.sort_by(|a, b| a.0.cmp(b.0));
            costs.insert(class.id, nodes);
        }
        let computable = computable(egraph, &costs);
        let numbers = reachable(egraph, &costs, &computable, outputs);
        let mut ordered: Vec<Id> = numbers.keys().copied().collect();
        ordered.sort_by_key(|id| numbers[id]);
        let (mut classes, mut ways) = (vec![], vec![]);
        for id in ordered {
            let usable = costs[&id].iter().filter(|(n, _)| can_compute(egraph, &computable, id, n));
            let (nodes, own): (Vec<(Node, Estimate)>, Vec<Way>) = usable
                .map(|(node, cost)| {
                    let needed = needs(egraph, id, node).iter();
                    let mut operands: Vec<usize> =
                        needed.map(|c| numbers[&egraph.find(*c)]).collect();
                    operands.sort_unstable();
                    operands.dedup();
                    (((*node).clone(), *cost), Way { cost: cost.total, operands })
                })
                .unzip();
            classes.push((id, nodes));
            ways.push(own);
        }
        let outputs: Vec<Id> = outputs.iter().map(|id| egraph.find(*id)).collect();
        let roots: Option<Vec<usize>> = outputs.iter().map(|id| numbers.get(id).copied()).collect();
        let instance = roots.map(|roots| Instance { ways, roots });
        Self { egraph, names, classes, instance, outputs }
    }

    /// The values of a choice, in an order in which they can be computed.
    pub(super) fn read_off(&self, choice: &Choice, order: &[usize]) -> Extracted {
        let mut place: BTreeMap<Id, usize> = BTreeMap::new();
        let mut values = vec![];
        for &class in order {
            let (id, nodes) = &self.classes[class];
            let (node, cost) = &nodes[choice[class]];
            let data = &self.egraph[*id].data;
            let needed = needs(self.egraph, *id, node).iter();
            let operands = needed.map(|c| place[&self.egraph.find(*c)]).collect();
            place.insert(*id, values.len());
            values.push(ChosenValue {
                node: node.clone(),
                class: *id,
                operands,
                ty: data.ty.clone(),
                weight: data.weight.clone(),
                name: self.names.get(id).cloned(),
                cost: *cost,
            });
        }
        let outputs = self.outputs.iter().map(|id| place[id]).collect();
        Extracted { values, outputs }
    }
}

/// The classes that kernels can compute.
fn computable(egraph: &EGraph, costs: &BTreeMap<Id, Vec<(&Node, Estimate)>>) -> BTreeSet<Id> {
    let mut known: BTreeSet<Id> = BTreeSet::new();
    loop {
        let before = known.len();
        for (id, nodes) in costs {
            if !known.contains(id) && nodes.iter().any(|(n, _)| can_compute(egraph, &known, *id, n))
            {
                known.insert(*id);
            }
        }
        if known.len() == before {
            return known;
        }
    }
}

fn can_compute(egraph: &EGraph, known: &BTreeSet<Id>, class: Id, node: &Node) -> bool {
    needs(egraph, class, node).iter().all(|c| known.contains(&egraph.find(*c)))
}

/// Numbers of the computable classes below the outputs: operands mostly before users, which
/// makes the fixed point quick.
fn reachable(
    egraph: &EGraph,
    costs: &BTreeMap<Id, Vec<(&Node, Estimate)>>,
    computable: &BTreeSet<Id>,
    outputs: &[Id],
) -> BTreeMap<Id, usize> {
    let mut numbers: BTreeMap<Id, usize> = BTreeMap::new();
    let mut entered: BTreeSet<Id> = BTreeSet::new();
    let mut next = 0;
    for output in outputs {
        let mut stack = vec![(egraph.find(*output), false)];
        while let Some((id, leave)) = stack.pop() {
            if leave {
                numbers.insert(id, next);
                next += 1;
                continue;
            }
            if !computable.contains(&id) || !entered.insert(id) {
                continue;
            }
            stack.push((id, true));
            for (node, _) in &costs[&id] {
                if can_compute(egraph, computable, id, node) {
                    stack.extend(needs(egraph, id, node).iter().map(|c| (egraph.find(*c), false)));
                }
            }
        }
    }
    numbers
}
