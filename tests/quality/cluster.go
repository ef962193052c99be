package main

import "math"

// cluster puts the nodes into k zones of nodes that are near each other
// (k-medoids): it begins with nodes that are as far as can be from those
// before, then lets each node join the nearest and each zone choose its most
// central node, until nothing changes. It returns the zone of each node.
func cluster(m *matrix, k int) []int {
	farthest := 0.0
	for _, ms := range m.mean {
		if ms > farthest {
			farthest = ms
		}
	}
	distance := func(a, b int) float64 {
		there, ok := m.expected(a, b)
		back, _ := m.expected(b, a)
		switch {
		case a == b:
			return 0
		case !ok:
			return farthest
		}
		return (there + back) / 2
	}

	all := make([]int, m.n)
	for i := range all {
		all[i] = i
	}
	medoids := []int{central(all, distance)}
	for len(medoids) < k {
		next, most := 0, -1.0
		for i := range m.n {
			if _, d := nearest(i, medoids, distance); d > most {
				next, most = i, d
			}
		}
		medoids = append(medoids, next)
	}

	zone := make([]int, m.n)
	for range 100 {
		members := make([][]int, k)
		for i := range m.n {
			zone[i], _ = nearest(i, medoids, distance)
			members[zone[i]] = append(members[zone[i]], i)
		}
		changed := false
		for z, nodes := range members {
			if c := central(nodes, distance); c != medoids[z] {
				medoids[z], changed = c, true
			}
		}
		if !changed {
			break
		}
	}
	return zone
}

// nearest is the index of the medoid nearest to a node.
func nearest(node int, medoids []int, distance func(a, b int) float64) (index int, d float64) {
	d = math.Inf(1)
	for i, medoid := range medoids {
		if to := distance(node, medoid); to < d || medoid == node {
			index, d = i, to
		}
		if medoid == node {
			break
		}
	}
	return index, d
}

// central is the node with the least distance to all others of its zone.
func central(nodes []int, distance func(a, b int) float64) int {
	best, least := nodes[0], math.Inf(1)
	for _, a := range nodes {
		sum := 0.0
		for _, b := range nodes {
			sum += distance(a, b)
		}
		if sum < least {
			best, least = a, sum
		}
	}
	return best
}
