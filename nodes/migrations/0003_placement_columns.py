from django.db import migrations, models
from django.db.models import F, Value
from django.db.models.functions import Coalesce, Greatest, Least

# Least memory of a CUDA tier -> its cost. By SQL's CASE the first that holds counts.
TIERS = {
    179744381337: 181,
    139801185484: 141,
    95863670046: 97,
    79886391705: 81,
    47931835023: 49,
    31954556682: 33,
    23965917511: 25,
    15977278341: 17,
    7988639170: 9,
    3994319585: 5,
}


def add_up(apps, schema_editor):
    device = apps.get_model("nodes", "Device")
    totals = device.objects.annotate(total=models.Sum("allocations__memory_bytes")).filter(total__isnull=False)
    for pk, total in totals.values_list("pk", "total"):
        device.objects.filter(pk=pk).update(promised_bytes=total)


class Migration(migrations.Migration):
    dependencies = [("nodes", "0002_agentless")]
    operations = [
        migrations.AddField(
            model_name="device",
            name="promised_bytes",
            field=models.BigIntegerField(
                default=0, editable=False, help_text="The sum of its allocations; only `allocations` writes either."
            ),
        ),
        migrations.AddField(
            model_name="device",
            name="free_bytes",
            field=models.GeneratedField(
                expression=F("memory_total_bytes")
                - Greatest(
                    Least(F("memory_total_bytes") / 10, Value(1024**3), output_field=models.BigIntegerField()),
                    Coalesce(F("memory_others_bytes"), Value(0), output_field=models.BigIntegerField()),
                )
                - F("promised_bytes"),
                output_field=models.BigIntegerField(null=True),
                db_persist=True,
                help_text="What may still be promised; below nothing where more was promised, or is taken, than it has.",
            ),
        ),
        migrations.AddField(
            model_name="device",
            name="cost",
            field=models.GeneratedField(
                expression=models.Case(
                    models.When(kind="cpu", then=0),
                    models.When(kind="opencl", then=1),
                    models.When(kind="rocm", then=2),
                    *[models.When(memory_total_bytes__gte=least, then=cost) for least, cost in TIERS.items()],
                    default=5,
                ),
                output_field=models.PositiveSmallIntegerField(),
                db_persist=True,
                help_text="Of its hardware class, to placement: it takes the cheapest that will do.",
            ),
        ),
        migrations.AddIndex(
            model_name="device", index=models.Index("cost", F("free_bytes").desc(), name="device_best_first")
        ),
        migrations.RunPython(add_up, migrations.RunPython.noop),
    ]
