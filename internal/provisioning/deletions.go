package provisioning

import (
	"context"
	"log/slog"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// lookForDeletions looks whether what was to be deleted is gone, where nobody has told:
// its process has died, or Prisma gave no clear answer. It deletes nothing: a client that
// got no answer may have changed its mind since.
func (s *Service) lookForDeletions(ctx context.Context, count *landingCounts) error {
	for {
		list, err := s.store.DeletionsInDoubt(ctx)
		if err != nil || len(list) == 0 {
			return err
		}
		atOnce(list, func(begun tenants.Deletion) {
			if err := s.lookAtDeletion(ctx, begun, count); err != nil {
				count.failed.Add(1)
				s.logger.WarnContext(ctx, "a look whether something is deleted failed", slog.String("error", err.Error()))
			}
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (s *Service) lookAtDeletion(ctx context.Context, begun tenants.Deletion, count *landingCounts) error {
	ctx, cancel := context.WithTimeout(ctx, s.deadline)
	defer cancel()
	r := removalOf(begun)
	_, err := call(ctx, s, r.at(), func(ctx context.Context, client *prisma.Client) (struct{}, error) {
		return struct{}{}, r.get(ctx, client, r.target)
	})
	switch {
	case gone(err):
		told, err := s.tellGone(ctx, tenants.System(), r.ResourceChange)
		if told {
			count.deleted.Add(1)
			s.logger.InfoContext(ctx, "what was to be deleted is gone, and told", slog.String("id", r.target))
		}
		return err
	case begun.Age >= tenants.KeyLife, err == nil && begun.Age >= tenants.SweepFor:
		s.cancel(ctx, begun) // nothing of it will land any more
	}
	return err
}
