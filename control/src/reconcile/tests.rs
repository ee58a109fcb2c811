//! The real world in namespaces: TAPs made, moved, changed, lost and taken over. Needs root.
