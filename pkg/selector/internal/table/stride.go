package table

import (
	"math"
	"sync/atomic"
)

// stride is a weighted round robin with a counter as its only state: the static stride
// scheduler of gRPC (proposal A58). Each generation passes all nodes once, and skips a
// node the more often the smaller its weight, at evenly spread generations. A pick takes
// greatest/mean weight steps on average.
type stride struct{ weights []uint64 } // scaled so that the greatest is maxStride

const maxStride = 1<<16 - 1

// newStride returns the stride of a near set, with the admission of its new nodes, nil
// if none is new.
func newStride(near []*Node, admit []uint32) stride {
	weights := make([]float64, len(near))
	greatest := 1.0
	for i, n := range near {
		weights[i] = float64(n.Instance.Load().Weight)
		if admit != nil {
			weights[i] *= float64(admit[i]) / math.MaxUint32
		}
		greatest = max(greatest, weights[i])
	}
	s := stride{make([]uint64, len(near))}
	for i, w := range weights {
		s.weights[i] = uint64(max(1, w*maxStride/greatest))
	}
	return s
}

func (s stride) next(turn *atomic.Uint64) int {
	n := uint64(len(s.weights))
	for {
		t := turn.Add(1) - 1
		i, generation := t%n, t/n
		w := s.weights[i]
		// The offset keeps nodes of one weight from being skipped together.
		if (w*generation+i*(maxStride/2))%maxStride >= maxStride-w {
			return int(i)
		}
	}
}
