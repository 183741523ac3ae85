//! A problem of extraction as numbers: classes, ways to compute each, and costs.

/// What to choose from.
pub(super) struct Instance {
    /// The ways to compute each class.
    pub(super) ways: Vec<Vec<Way>>,
    /// The classes wanted.
    pub(super) roots: Vec<usize>,
}

/// A way to compute a class.
pub(super) struct Way {
    /// Seconds.
    pub(super) cost: f64,
    /// The classes needed, each once.
    pub(super) operands: Vec<usize>,
}

/// One way of each class.
pub(super) type Choice = Vec<usize>;

impl Instance {
    /// The classes in an order in which each has a way through classes before it, without some
    /// and what only they make possible.
    pub(super) fn completion_order(&self, without: &[usize]) -> Vec<usize> {
        let mut done = vec![false; self.ways.len()];
        let mut order = Vec::with_capacity(self.ways.len());
        loop {
            let before = order.len();
            for (class, ways) in self.ways.iter().enumerate() {
                let ready = |way: &Way| way.operands.iter().all(|o| done[*o]);
                if !done[class] && !without.contains(&class) && ways.iter().any(ready) {
                    done[class] = true;
                    order.push(class);
                }
            }
            if order.len() == before {
                return order;
            }
        }
    }

    /// The classes in the order in which they can be computed, following a choice from the
    /// roots; `None` where it goes in a circle.
    pub(super) fn order(&self, choice: &Choice) -> Option<Vec<usize>> {
        #[derive(Clone, Copy, PartialEq)]
        enum State {
            New,
            Open,
            Done,
        }
        let mut state = vec![State::New; self.ways.len()];
        let mut order = vec![];
        for &root in &self.roots {
            let mut stack = vec![root];
            while let Some(&class) = stack.last() {
                if state[class] == State::Done {
                    stack.pop();
                    continue;
                }
                let way = self.ways[class].get(choice[class])?;
                let waiting = || way.operands.iter().rev().filter(|o| state[**o] != State::Done);
                if waiting().any(|operand| state[*operand] == State::Open) {
                    return None;
                }
                let before = stack.len();
                stack.extend(waiting());
                if stack.len() == before {
                    state[class] = State::Done;
                    order.push(class);
                    stack.pop();
                } else {
                    state[class] = State::Open;
                }
            }
        }
        Some(order)
    }

    /// Seconds of a choice, each class counted once; `None` where it goes in a circle.
    pub(super) fn seconds(&self, choice: &Choice) -> Option<f64> {
        let order = self.order(choice)?;
        Some(order.iter().map(|&class| self.ways[class][choice[class]].cost).sum())
    }
}
