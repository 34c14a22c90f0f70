//! Who needs whom, as declared, through any number of steps.

use std::collections::BTreeSet;

/// The call graph of the agents, by their numbers.
#[derive(Debug)]
pub(crate) struct Graph {
    all: Vec<BTreeSet<usize>>,
}

impl Graph {
    /// Returns the graph of the agents' own needs; a cycle, which the catalogue's check refuses, does no harm here.
    pub(crate) fn new(needs: &[Vec<usize>]) -> Self {
        let mut all = Vec::with_capacity(needs.len());
        for own in needs {
            let mut seen = BTreeSet::new();
            let mut open = own.clone();
            while let Some(next) = open.pop() {
                if seen.insert(next) {
                    open.extend(needs.get(next).into_iter().flatten());
                }
            }
            all.push(seen);
        }
        for (n, seen) in all.iter_mut().enumerate() {
            seen.remove(&n);
        }
        Self { all }
    }

    /// Returns all that an agent needs, through any number of steps.
    pub(crate) fn needs(&self, agent: usize) -> impl Iterator<Item = usize> + '_ {
        self.all.get(agent).into_iter().flatten().copied()
    }

    /// Returns how many agents an agent needs: those with fewer come first when all must be mended.
    pub(crate) fn depth(&self, agent: usize) -> usize {
        self.all.get(agent).map_or(0, BTreeSet::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_reach_through_any_number_of_steps_and_a_cycle_ends() {
        let graph = Graph::new(&[vec![], vec![0], vec![1], vec![4], vec![3]]);
        assert_eq!(graph.needs(2).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(graph.needs(3).collect::<Vec<_>>(), [4]);
        assert_eq!((graph.depth(0), graph.depth(2)), (0, 2));
    }
}
