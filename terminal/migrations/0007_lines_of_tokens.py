import uuid

from django.db import migrations, models


def give_each_its_own(apps, schema_editor):
    """Which of them belong together nobody knows any more."""
    tickets = apps.get_model('terminal', 'TerminalTicket').objects
    for pk in tickets.values_list('pk', flat=True):
        tickets.filter(pk=pk).update(line=uuid.uuid4())


class Migration(migrations.Migration):

    dependencies = [
        ('terminal', '0006_writers'),
    ]

    operations = [
        migrations.AddField(
            model_name='terminalticket',
            name='line',
            field=models.UUIDField(default=uuid.uuid4, help_text='A ticket and the resume tokens that came of it.'),
        ),
        migrations.RunPython(give_each_its_own, migrations.RunPython.noop),
    ]
